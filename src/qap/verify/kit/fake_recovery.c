/*
 * A kernel that tells of its recovery from errors of a PCI device, for
 * LD_PRELOAD below a QEMU with vfio-pci. What it tells are the lines of the
 * fifo $FAKE_RECOVERY, "STATUS SEQUENCE", or "ERRNO -" for a GET that fails;
 * each signals the eventfd. The file $FAKE_RECOVERY.log has a line for each
 * operation.
 */

#include "pci-error-uapi.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>


static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct vfio_device_feature_pci_error_recovery told = { .eventfd = -1 };
static int failure;

static void note(const char *what, uint64_t sequence)
{
	char path[256];
	FILE *log;

	snprintf(path, sizeof(path), "%s.log", getenv("FAKE_RECOVERY"));
	log = fopen(path, "a");
	fprintf(log, "%s %u %llu\n", what, told.status, (unsigned long long)sequence);
	fclose(log);
}

static void *listen_to_fifo(void *unused)
{
	/* Also for writing: there is no end of it when a writer goes. */
	FILE *fifo = fdopen(open(getenv("FAKE_RECOVERY"), O_RDWR), "r");
	unsigned long long sequence;
	const uint64_t one = 1;
	char line[80];
	unsigned int status;

	while (fgets(line, sizeof(line), fifo)) {
		pthread_mutex_lock(&lock);
		failure = 0;
		if (sscanf(line, "%u %llu", &status, &sequence) == 2) {
			told.status = status;
			told.sequence = sequence;
		} else {
			failure = atoi(line);
		}
		if (told.eventfd >= 0)
			write(told.eventfd, &one, sizeof(one));
		pthread_mutex_unlock(&lock);
	}
	return unused;
}

/* From the start, for a writer not to wait where QEMU doesn't opt in. */
__attribute__((constructor)) static void start(void)
{
	pthread_t listener;

	pthread_create(&listener, NULL, listen_to_fifo, NULL);
}

static int recovery(struct vfio_device_feature *feature)
{
	struct vfio_device_feature_pci_error_recovery *data =
		(void *)feature->data;

	if (feature->flags & VFIO_DEVICE_FEATURE_PROBE)
		return 0;
	if (feature->flags & VFIO_DEVICE_FEATURE_SET) {
		told.eventfd = data->eventfd < 0 ? -1 : dup(data->eventfd);
		note(data->eventfd < 0 ? "out" : "in", 0);
		return 0;
	}
	if (failure) {
		errno = failure;
		note("failed", 0);
		return -1;
	}
	data->status = told.status;
	data->sequence = told.sequence;
	note("get", told.sequence);
	return 0;
}

int ioctl(int fd, unsigned long request, ...)
{
	struct vfio_device_feature *feature;
	va_list more;
	void *argument;
	int ret;

	va_start(more, request);
	argument = va_arg(more, void *);
	va_end(more);
	feature = argument;
	if (request != VFIO_DEVICE_FEATURE ||
	    (feature->flags & VFIO_DEVICE_FEATURE_MASK) !=
	    VFIO_DEVICE_FEATURE_PCI_ERROR_RECOVERY)
		return syscall(SYS_ioctl, fd, request, argument);
	pthread_mutex_lock(&lock);
	ret = recovery(feature);
	pthread_mutex_unlock(&lock);
	return ret;
}
