//! The walk of the backends whose registers hold several blocks, written once for both widths.
//!
//! Eight registers are in flight, which hides the latency of the AES instructions on every CPU that has them. One
//! reduction is made for the blocks of eight registers: each is multiplied by its own power of the hash key, and the
//! lanes of the three sums of products are added up before it. A message whose blocks do not fill whole groups begins
//! with a shorter one, in 128 bits; a page has none.

/// Registers in flight.
pub(crate) const DEEP: usize = 8;

/// The functions of a backend: `$features` are its own, and `Vector`, `LANES` and the primitives are in scope.
macro_rules! walk {
    ($features:literal) => {
        use vmcrypt_core::aes::{AesKey, Block};
        use vmcrypt_core::cipher::{Keys, PAGE_SIZE, SharedPage};
        use vmcrypt_core::polyval::{HashKey, POWERS};
        use $crate::ni;
        use $crate::wide::DEEP;

        /// Blocks that share a reduction.
        const GROUP: usize = LANES * DEEP;

        #[target_feature(enable = $features)]
        pub(super) fn hash(key: &HashKey, acc: &mut Block, blocks: &[Block]) {
            let (lead, groups) = blocks.split_at(blocks.len() % GROUP);
            let mut sum = ni::absorb(key, ni::load(acc), lead);
            for group in groups.as_chunks::<GROUP>().0 {
                sum = absorb_group(key, sum, group);
            }
            ni::store(acc, sum);
        }

        #[target_feature(enable = $features)]
        pub(super) fn copy_then_hash(
            key: &HashKey,
            first: &Block,
            from: &SharedPage,
            to: &mut [Block; PAGE_SIZE / 16],
        ) -> Block {
            let groups = from
                .as_chunks::<GROUP>()
                .0
                .iter()
                .zip(to.as_chunks_mut::<GROUP>().0);
            let mut sum = ni::load(first);
            let mut begun = false;
            for (from, to) in groups {
                for (from, to) in from.as_chunks().0.iter().zip(to.as_chunks_mut().0) {
                    store(to, load_once(from));
                }
                if !core::mem::replace(&mut begun, true) {
                    // The sum takes out again what is hashed in the place of `first`.
                    let [head, ..] = to;
                    sum = _mm_xor_si128(sum, ni::load(head));
                }
                sum = absorb_group(key, sum, to);
            }
            let mut out = [0; 16];
            ni::store(&mut out, sum);
            out
        }

        #[target_feature(enable = $features)]
        pub(super) fn xctr_then_hash(keys: Keys<'_>, start: &Block, acc: &mut Block, blocks: &mut [Block]) {
            let Some(kept) = blocks.first().copied() else {
                return;
            };
            let (lead, groups) = blocks.split_at_mut(blocks.len() % GROUP);
            let mut narrow = ni::Counters::new(start);
            for blocks in lead.chunks_mut(ni::WIDE) {
                ni::add(
                    blocks,
                    &ni::encrypt(keys.cipher, narrow.take::<{ ni::WIDE }>(), |_| ()),
                );
            }
            let mut counters = Counters::new(start, lead.len());
            let (group, others) = match groups.as_chunks_mut::<GROUP>().0 {
                [group, others @ ..] => (group, others),
                [] => {
                    put_back(lead, &kept);
                    ni::store(acc, ni::absorb(keys.hash, ni::load(acc), lead));
                    return;
                }
            };
            add(group, encrypt(keys.cipher, counters.take(), |_| ()));
            put_back(if lead.is_empty() { group } else { lead }, &kept);
            let mut sum = ni::absorb(keys.hash, ni::load(acc), lead);

            // AES of each group runs while the multiplier is busy with the group before it.
            let mut before: &[Block; GROUP] = group;
            for group in others {
                let mut products = Products::new(sum);
                let stream = encrypt(keys.cipher, counters.take(), |round| {
                    if round < DEEP {
                        products.add(keys.hash, before, round);
                    }
                });
                sum = products.reduce();
                add(group, stream);
                before = group;
            }
            ni::store(acc, absorb_group(keys.hash, sum, before));
        }

        /// The first block of a message takes no key stream.
        #[inline]
        fn put_back(blocks: &mut [Block], kept: &Block) {
            if let Some(first) = blocks.first_mut() {
                *first = *kept;
            }
        }

        /// AES-256 of eight registers, with other work to do after each of the thirteen middle rounds.
        #[inline]
        #[target_feature(enable = $features)]
        fn encrypt(key: &AesKey, mut x: [Vector; DEEP], mut meanwhile: impl FnMut(usize)) -> [Vector; DEEP] {
            let [first, middle @ .., last] = key.round_keys();
            let first = spread(first);
            for x in &mut x {
                *x = xor(*x, first);
            }
            for (i, round) in middle.iter().enumerate() {
                let round = spread(round);
                for x in &mut x {
                    *x = aesenc(*x, round);
                }
                meanwhile(i);
            }
            let last = spread(last);
            for x in &mut x {
                *x = aesenclast(*x, last);
            }
            x
        }

        /// Adds key stream to blocks.
        #[inline]
        #[target_feature(enable = $features)]
        fn add(blocks: &mut [Block; GROUP], stream: [Vector; DEEP]) {
            for (blocks, stream) in blocks.as_chunks_mut().0.iter_mut().zip(stream) {
                let sum = xor(stream, load(blocks));
                store(blocks, sum);
            }
        }

        /// XCTR's counter blocks.
        struct Counters {
            start: Vector,
            next: Vector,
        }

        impl Counters {
            #[inline]
            #[target_feature(enable = $features)]
            fn new(start: &Block, next: usize) -> Self {
                let lanes = core::array::from_fn(|lane| (next + lane) as u128).map(u128::to_le_bytes);
                Self {
                    start: spread(start),
                    next: load(&lanes),
                }
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn take(&mut self) -> [Vector; DEEP] {
                let step = spread(&(LANES as u128).to_le_bytes());
                [(); DEEP].map(|()| {
                    let blocks = xor(self.start, self.next);
                    self.next = add64(self.next, step);
                    blocks
                })
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn absorb_group(key: &HashKey, sum: __m128i, group: &[Block; GROUP]) -> __m128i {
            let mut products = Products::new(sum);
            for at in 0..DEEP {
                products.add(key, group, at);
            }
            products.reduce()
        }

        /// POLYVAL of a group, lane by lane; the sum so far goes with the first block.
        struct Products {
            low: Vector,
            middle: Vector,
            high: Vector,
            carry: Vector,
        }

        impl Products {
            #[inline]
            #[target_feature(enable = $features)]
            fn new(sum: __m128i) -> Self {
                Self {
                    low: zero(),
                    middle: zero(),
                    high: zero(),
                    carry: widen(sum),
                }
            }

            /// Takes register number `at` of a group.
            #[inline]
            #[target_feature(enable = $features)]
            fn add(&mut self, key: &HashKey, group: &[Block; GROUP], at: usize) {
                let powers = key.powers()[POWERS - GROUP..].as_chunks().0;
                let (Some(blocks), Some(power)) = (group.as_chunks().0.get(at), powers.get(at)) else {
                    return;
                };
                let (x, power) = (xor(load(blocks), self.carry), load_powers(power));
                self.carry = zero();
                self.low = xor(self.low, clmul::<0x00>(x, power));
                self.high = xor(self.high, clmul::<0x11>(x, power));
                self.middle = xor3(
                    self.middle,
                    clmul::<0x01>(x, power),
                    clmul::<0x10>(x, power),
                );
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn reduce(self) -> __m128i {
                ni::reduce(gather(self.low), gather(self.middle), gather(self.high))
            }
        }
    };
}

/// Makes a backend of such functions.
macro_rules! backend {
    ($name:ident) => {
        impl vmcrypt_core::cipher::Backend for $name {
            fn encrypt_block(&self, key: &AesKey, block: &mut Block) {
                // SAFETY: the type proves the features.
                unsafe { ni::encrypt_block(key, block) }
            }

            fn decrypt_block(&self, key: &AesKey, block: &mut Block) {
                // SAFETY: the type proves the features.
                unsafe { ni::decrypt_block(key, block) }
            }

            fn hash(&self, key: &HashKey, acc: &mut Block, blocks: &[Block]) {
                // SAFETY: the type proves the features.
                unsafe { hash(key, acc, blocks) }
            }

            fn copy_then_hash(
                &self,
                key: &HashKey,
                first: &Block,
                from: &SharedPage,
                to: &mut [Block; PAGE_SIZE / 16],
            ) -> Block {
                // SAFETY: the type proves the features.
                unsafe { copy_then_hash(key, first, from, to) }
            }

            fn xctr_then_hash(&self, keys: Keys<'_>, start: &Block, acc: &mut Block, blocks: &mut [Block]) {
                // SAFETY: the type proves the features.
                unsafe { xctr_then_hash(keys, start, acc, blocks) }
            }
        }
    };
}

pub(crate) use {backend, walk};
