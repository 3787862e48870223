/*
 * A kernel's vhost device that accepts everything, for LD_PRELOAD: any file
 * descriptor is one.
 */

#include <linux/vhost.h>
#include <linux/virtio_config.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

int ioctl(int fd, unsigned long request, ...)
{
	va_list more;
	void *argument;

	va_start(more, request);
	argument = va_arg(more, void *);
	va_end(more);
	if (_IOC_TYPE(request) != VHOST_VIRTIO)
		return syscall(SYS_ioctl, fd, request, argument);
	if (request == VHOST_GET_FEATURES)
		*(uint64_t *)argument = 1ull << VIRTIO_F_VERSION_1;
	if (request == VHOST_GET_BACKEND_FEATURES)
		*(uint64_t *)argument = 0;
	return 0;
}
