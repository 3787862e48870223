/*
 * A kernel's vhost devices that accept everything but the request that
 * FAKE_VHOST_FAILS names, for LD_PRELOAD: any file descriptor is one, of any
 * kind, and a tap device, too. What they offer is in the environment.
 */

#include <errno.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/vhost.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * Features past the 64th, read or written: a kernel from before this request
 * takes the argument for the number of a queue, which is too large.
 */
#define FEATURES_ARRAY 0x83

/* Terminals have the same type of request, with smaller numbers. */
#define FIRST_TUN_REQUEST 200

static uint8_t status;

static uint64_t wanted(const char *name)
{
	return strtoull(getenv(name), NULL, 0);
}

static int vhost(unsigned long request, void *argument)
{
	struct vhost_vdpa_iova_range all = { 0, UINT64_MAX };

	if (_IOC_NR(request) == FEATURES_ARRAY) {
		errno = ENOBUFS;
		return -1;
	}
	if (request == wanted("FAKE_VHOST_FAILS")) {
		errno = EIO;
		return -1;
	}
	switch (request) {
	case VHOST_GET_FEATURES:
		*(uint64_t *)argument = wanted("FAKE_VHOST_FEATURES");
		break;
	case VHOST_GET_BACKEND_FEATURES:
		*(uint64_t *)argument = 0;
		break;
	case VHOST_VDPA_GET_DEVICE_ID:
		*(uint32_t *)argument = wanted("FAKE_VDPA_TYPE");
		break;
	case VHOST_VDPA_GET_VRING_NUM:
		*(uint16_t *)argument = 256;
		break;
	case VHOST_VDPA_GET_VQS_COUNT:
		*(uint32_t *)argument = 1;
		break;
	case VHOST_VDPA_GET_CONFIG_SIZE:
		*(uint32_t *)argument = 8;
		break;
	case VHOST_VDPA_GET_IOVA_RANGE:
		*(struct vhost_vdpa_iova_range *)argument = all;
		break;
	case VHOST_VDPA_GET_STATUS:
		*(uint8_t *)argument = status;
		break;
	case VHOST_VDPA_SET_STATUS:
		status = *(uint8_t *)argument;
		break;
	}
	return 0;
}

static int tap(unsigned long request, void *argument)
{
	if (request == TUNGETIFF) {
		memset(argument, 0, sizeof(struct ifreq));
		((struct ifreq *)argument)->ifr_flags = IFF_TAP | IFF_VNET_HDR;
	}
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list more;
	void *argument;

	va_start(more, request);
	argument = va_arg(more, void *);
	va_end(more);
	if (_IOC_TYPE(request) == VHOST_VIRTIO)
		return vhost(request, argument);
	if (_IOC_TYPE(request) == 'T' && _IOC_NR(request) >= FIRST_TUN_REQUEST)
		return tap(request, argument);
	return syscall(SYS_ioctl, fd, request, argument);
}
