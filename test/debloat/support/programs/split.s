# A function whose rarely used part lies elsewhere and is jumped into behind its start, as compilers
# lay it out; and a constructor.
    .text
    .globl split
    .type split, @function
split:
    .cfi_startproc
    test %edi, %edi
    jne .Lseldom
    mov $1, %eax
    ret
    .cfi_endproc
    .size split, . - split

    .globl built
    .type built, @function
built:
    .cfi_startproc
    movl $5, constructed(%rip)
    ret
    .cfi_endproc
    .size built, . - built

    .globl was_built
    .type was_built, @function
was_built:
    .cfi_startproc
    mov constructed(%rip), %eax
    ret
    .cfi_endproc
    .size was_built, . - was_built

    .globl destroyed
    .type destroyed, @function
destroyed:
    .cfi_startproc
    ret
    .cfi_endproc
    .size destroyed, . - destroyed

# Never called. Its unwind records have pointers of several widths, as those of C++ do.
    .globl guarded
    .type guarded, @function
guarded:
    .cfi_startproc
    .cfi_personality 0x9b, personality
    .cfi_lsda 0x1c, actions
    ret
    .cfi_endproc
    .size guarded, . - guarded

    .section .text.unlikely, "ax", @progbits
    .globl split.cold
    .type split.cold, @function
split.cold:
    .cfi_startproc
    mov $3, %eax
    ret
.Lseldom:
    mov $2, %eax
    ret
    .cfi_endproc
    .size split.cold, . - split.cold

    .section .init_array, "aw"
    .p2align 3
    .quad built
    .section .fini_array, "aw"
    .p2align 3
    .quad destroyed
    .data
    .p2align 3
personality: .quad split
actions: .quad 0
    .bss
    .p2align 2
constructed: .zero 4
    .section .note.GNU-stack, "", @progbits
