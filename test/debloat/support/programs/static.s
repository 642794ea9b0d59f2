# A program without libc: it prints one word.
    .globl _start
_start:
    mov $1, %eax
    mov $1, %edi
    lea text(%rip), %rsi
    mov $7, %edx
    syscall
    mov $60, %eax
    xor %edi, %edi
    syscall
text: .ascii "static\n"
    .section .note.GNU-stack, "", @progbits
