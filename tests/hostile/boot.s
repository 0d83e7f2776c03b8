# How the hostile guest begins: PVH's 32-bit entry, page tables, long mode; the second processor's
# way there; and what happens on exceptions and interrupts.

    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18                      # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long start32

    .section .text
    .code32
start32:
    cli
    mov $boot_stack_end, %esp
    mov %ebx, START_INFO
    xor %ebp, %ebp
    # The first 5 GiB as they are, in pages of 2 MiB.
    movl $(pdpt + 3), pml4
    mov $5, %ecx
    mov $(directories + 3), %eax
    mov $pdpt, %edi
1:  mov %eax, (%edi)
    add $4096, %eax
    add $8, %edi
    loop 1b
    mov $directories, %edi
    mov $0x83, %eax
    xor %edx, %edx
    mov $(5 * 512), %ecx
2:  mov %eax, (%edi)
    mov %edx, 4(%edi)
    add $0x200000, %eax
    adc $0, %edx
    add $8, %edi
    loop 2b
enter64:
    mov %cr4, %eax
    or $0x620, %eax                     # PAE, OSFXSR, OSXMMEXCPT
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax                     # EFER.LME
    wrmsr
    mov %cr0, %eax
    and $~4, %eax
    or $0x80000002, %eax                # PG, MP
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $0x08, $start64

    .code64
start64:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov %eax, %ss
    mov %ebp, %edi
    call enter
    ud2

    # Copied below 1 MiB, to 0x8000: where the second processor starts, in real mode.
    .code16
    .global second_start, second_end
second_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl 0x8000 + second_gdt - second_start
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $0x18, $second32
second_gdt:
    .word 31
    .long gdt
second_end:

    .code32
second32:
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %ss
    mov $second_stack_end, %esp
    mov $1, %ebp
    jmp enter64

    .code64
    # One for each vector, 16 bytes apart.
    .balign 16
    .global stubs
stubs:
    .rept 256
    .balign 16
    call exception
    .endr

exception:
    push %rax
    push %rcx
    mov 16(%rsp), %rax
    sub $stubs, %rax
    shr $4, %eax
    cmp $32, %eax
    jae interrupt
    cmp $2, %eax
    je back
    mov $0x60227d00, %ecx               # those with an error code
    bt %eax, %ecx
    mov FIXUP, %rcx
    jc 1f
    test %rcx, %rcx
    jz fatal
    mov %rcx, 24(%rsp)
back:
    pop %rcx
    pop %rax
    add $8, %rsp
    iretq
1:  test %rcx, %rcx
    jz fatal
    mov %rcx, 32(%rsp)
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq
interrupt:
    mov $0x20, %al
    out %al, $0x20
    out %al, $0xa0
    jmp back
fatal:
    mov %eax, %edi
    mov 24(%rsp), %rsi
    mov 32(%rsp), %rdx
    and $~15, %rsp
    call unexpected
    ud2

    .section .data
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff            # 64-bit code
    .quad 0x00cf93000000ffff            # data
    .quad 0x00cf9b000000ffff            # 32-bit code
gdt_pointer:
    .word 31
    .quad gdt

    .section .bss
    .balign 4096
pml4:        .skip 4096
pdpt:        .skip 4096
    .global directories
directories: .skip 5 * 4096
boot_stack:  .skip 65536
boot_stack_end:
             .skip 16384
second_stack_end:
    .global START_INFO, FIXUP
START_INFO:  .skip 8
FIXUP:       .skip 8
