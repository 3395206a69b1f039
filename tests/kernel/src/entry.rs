//! What Xen's domain builder reads in the ELF file (public/elfnote.h), and the first instructions of both vCPUs.

use core::arch::global_asm;

/// Address of PFN 0; also in `link.x`.
pub const VIRT_BASE: u64 = 0x4000_0000;

/// Bytes of a vCPU's stack.
pub const STACK: usize = 32 << 10;

global_asm!(
    r#"
    .macro note type, size, value
    .long 4, \size, \type
    .asciz "Xen"
    .ifc \size, 8
    .quad \value
    .else
    .long \value
    .endif
    .endm

    .macro note_text type, text
    .long 4, 91f - 90f, \type
    .asciz "Xen"
90: .asciz "\text"
91: .balign 4
    .endm

    .macro differs register, number
    lea rcx, [r8 + \number]
    xor \register, rcx
    or r9, \register
    .endm

    .section .note.Xen, "a", @note
    note_text 5, xen-3.0        # XEN_VERSION
    note_text 6, vmcrypt-kernel # GUEST_OS
    note_text 8, generic        # LOADER
    note 1, 8, _start           # ENTRY
    note 3, 8, {base}           # VIRT_BASE
    note 4, 8, {base}           # PADDR_OFFSET
    note 14, 4, 1               # SUSPEND_CANCEL

    .section .text.entry, "ax", @progbits
    .global _start
_start:
    cld
    lea rsp, [rip + stack_0 + {stack}]
    xor ebp, ebp
    mov rdi, rsi
    call kernel_main
    ud2

    .global start_second
start_second:
    cld
    lea rsp, [rip + stack_1 + {stack}]
    xor ebp, ebp
    call second_main
    ud2

    # Makes a hypercall with patterns in all registers that it must leave alone:
    # (number, three arguments, key, where to put what differs) -> result.
    .global patterned_call
patterned_call:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    push r9
    push r8
    mov rax, rdi
    mov rdi, rsi
    mov rsi, rdx
    mov rdx, rcx
    lea rbx, [r8 + 1]
    lea rbp, [r8 + 2]
    lea r12, [r8 + 3]
    lea r13, [r8 + 4]
    lea r14, [r8 + 5]
    lea r15, [r8 + 6]
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    lea rcx, [r8 + 16 + \n]
    movq xmm\n, rcx
    punpcklqdq xmm\n, xmm\n
    .endr
    syscall
    pop r8
    xor r9d, r9d
    differs rbx, 1
    differs rbp, 2
    differs r12, 3
    differs r13, 4
    differs r14, 5
    differs r15, 6
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    lea rcx, [r8 + 16 + \n]
    movq r10, xmm\n
    xor r10, rcx
    or r9, r10
    psrldq xmm\n, 8
    movq r10, xmm\n
    xor r10, rcx
    or r9, r10
    .endr
    pop rcx
    mov [rcx], r9
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

    # What the compiler expects of a C library, where there is none.
    .global memset
memset:
    mov r8, rdi
    mov eax, esi
    mov rcx, rdx
    rep stosb
    mov rax, r8
    ret

    .global memcpy
memcpy:
    mov rax, rdi
    mov rcx, rdx
    rep movsb
    ret

    .global memcmp
    .global bcmp
memcmp:
bcmp:
    xor eax, eax
    mov rcx, rdx
    cmp rcx, rcx
    repe cmpsb
    je 3f
    movzx eax, byte ptr [rdi - 1]
    movzx ecx, byte ptr [rsi - 1]
    sub ecx, eax
    mov eax, ecx
3:  ret

    .section .bss.stacks, "aw", @nobits
    .balign 4096
stack_0:
    .zero {stack}
stack_1:
    .zero {stack}
"#,
    base = const VIRT_BASE,
    stack = const STACK,
);
