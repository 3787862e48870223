/*
 * Firmware of our own for x86: it executes code that it finds in memory, under page tables
 * that it finds there, too. qap.hw.x86_cpu is the other end, and says what stands where.
 *
 * Addresses are computed from BASE, for nothing links this.
 */
	.set BASE, 0xffff0000		/* where the last 64 KiB below 4 GiB begin */
	.set GO, 0x1000			/* 1: run; 0 when that is done */
	.set MODE, 0x1004		/* 1: long mode, 2: protected mode with PAE */
	.set HOME, 0x1008		/* CR3 between two runs */
	.set CR4, 0x1010
	.set CR3, 0x1018		/* during a run */
	.set RAX, 0x1020
	.set RBX, 0x1028
	.set RCX, 0x1030
	.set RDX, 0x1038
	.set VECTOR, 0x1040		/* of the exception that ended the run; -1: none did */
	.set ERROR, 0x1048
	.set CR2, 0x1050
	.set CODE, 0x1800
	.set STACK, 0x3000
	.set HANDLERS32, 0xd000
	.set HANDLERS64, 0xe000
	.set HANDLER_SIZE, 32

	.text
image:
	.org HANDLERS32
	.code32
	.set vector, 0
	.rept 32
	.balign HANDLER_SIZE
	.if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17)
	pushl	$0
	.endif
	popl	ERROR
	movl	$vector, VECTOR
	jmp	fault32
	.set vector, vector + 1
	.endr

	.org HANDLERS64
	.code64
	.set vector, 0
	.rept 32
	.balign HANDLER_SIZE
	.if (vector != 8) && ((vector < 10) || (vector > 14)) && (vector != 17)
	pushq	$0
	.endif
	popq	ERROR
	movq	$vector, VECTOR
	jmp	fault64
	.set vector, vector + 1
	.endr

	.org 0xf000
	.code16
start:
	cli
	lgdtl	%cs:(gdtr - image)
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$0x08, $(BASE + (protected - image))

	.code32
protected:
	movl	$0x10, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
wait_for_mode:
	pause
	cmpl	$0, MODE
	je	wait_for_mode
	movl	CR4, %eax
	movl	%eax, %cr4
	movl	HOME, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx	/* EFER: NXE, and LME for long mode */
	rdmsr
	orl	$0x800, %eax
	cmpl	$1, MODE
	jne	1f
	orl	$0x100, %eax
1:	wrmsr
	movl	%cr0, %eax
	orl	$0x80010000, %eax	/* PG, WP */
	movl	%eax, %cr0
	cmpl	$1, MODE
	jne	pae
	ljmpl	$0x18, $(BASE + (long - image))

pae:
	lidtl	BASE + (idtr32 - image)
loop32:
	pause
	cmpl	$1, GO
	jne	loop32
	movl	$STACK, %esp
	movl	$-1, VECTOR
	movl	CR3, %ebp
	movl	%ebp, %cr3
	movl	RAX, %eax
	movl	RBX, %ebx
	movl	RCX, %ecx
	movl	RDX, %edx
	movl	$CODE, %ebp
	call	*%ebp
done32:
	movl	%eax, RAX
	movl	%ebx, RBX
	movl	%ecx, RCX
	movl	%edx, RDX
	movl	HOME, %ebp
	movl	%ebp, %cr3
	movl	$0, GO
	jmp	loop32
fault32:
	movl	%cr2, %ebp
	movl	%ebp, CR2
	jmp	done32

	.code64
long:
	lidt	idtr64(%rip)
loop64:
	pause
	cmpl	$1, GO
	jne	loop64
	movl	$STACK, %esp
	movq	$-1, VECTOR
	movq	CR3, %rbp
	movq	%rbp, %cr3
	movq	RAX, %rax
	movq	RBX, %rbx
	movq	RCX, %rcx
	movq	RDX, %rdx
	movl	$CODE, %ebp
	call	*%rbp
done64:
	movq	%rax, RAX
	movq	%rbx, RBX
	movq	%rcx, RCX
	movq	%rdx, RDX
	movq	HOME, %rbp
	movq	%rbp, %cr3
	movl	$0, GO
	jmp	loop64
fault64:
	movq	%cr2, %rbp
	movq	%rbp, CR2
	jmp	done64

	.balign 8
gdt:	.quad	0
	.quad	0x00cf9b000000ffff	/* 0x08: 32-bit code */
	.quad	0x00cf93000000ffff	/* 0x10: data */
	.quad	0x00af9b000000ffff	/* 0x18: 64-bit code */
gdtr:	.word	. - gdt - 1
	.long	BASE + (gdt - image)
idt32:
	.set vector, 0
	.rept 32
	.word	HANDLERS32 + vector * HANDLER_SIZE, 0x08, 0x8e00, BASE >> 16
	.set vector, vector + 1
	.endr
idtr32:	.word	. - idt32 - 1
	.long	BASE + (idt32 - image)
idt64:
	.set vector, 0
	.rept 32
	.word	HANDLERS64 + vector * HANDLER_SIZE, 0x18, 0x8e00, BASE >> 16
	.quad	0
	.set vector, vector + 1
	.endr
idtr64:	.word	. - idt64 - 1
	.quad	BASE + (idt64 - image)

	.org 0xfff0
	.code16
	jmp	start
	.org 0x10000
