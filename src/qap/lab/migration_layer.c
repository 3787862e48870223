/*
 * Between QEMU and the kernel's VFIO, for LD_PRELOAD: changes what a device says of its migration,
 * and writes down every state that it is told to enter. Rules for the device NAME are in the file
 * NAME of the folder $QAP_MIGRATION_LAYER, and are read at each call; the record goes to the file
 * "record" there. migration_layer.py has both formats.
 */

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

#define DEVICES 8
#define NAME_SIZE 64

/* Of enum vfio_device_mig_state, since Linux 6.2. */
#define PRE_COPY 6
#define PRE_COPY_P2P 7

struct device {
	char name[NAME_SIZE];
	int fd;
	int data_fd;
	int failed;	/* stands for a kernel's device in ERROR */
	int emptied;	/* the last read in pre-copy was told that there is nothing */
	int reads;	/* since data_fd is there */
};

struct rules {
	int has_flags, no_data_fd, pauses;
	uint64_t flags;
	int refused, refused_errno, refused_for_good;
	int reset_errno;
	size_t read_most;
	int read_state, read_errno;
};

struct state_feature {
	struct vfio_device_feature head;
	struct vfio_device_feature_mig_state state;
};

static struct device devices[DEVICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int raw(int fd, unsigned long request, void *argument)
{
	return syscall(SYS_ioctl, fd, request, argument);
}

static int fail(int number)
{
	errno = number;
	return -1;
}

static void path_of(char *path, size_t size, const char *name)
{
	snprintf(path, size, "%s/%s", getenv("QAP_MIGRATION_LAYER"), name);
}

static void record(const char *name, const char *what, long first, long second)
{
	static int fd = -1;
	char path[512], line[160];
	int saved = errno, size;

	if (fd < 0) {
		path_of(path, sizeof(path), "record");
		fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	}
	size = snprintf(line, sizeof(line), "%s %s %ld %ld\n", name, what, first, second);
	if (fd < 0 || write(fd, line, size) != size)
		abort();
	errno = saved;
}

static struct rules rules_of(const struct device *device)
{
	struct rules rules = { .refused = -1, .no_data_fd = -1, .read_state = -1 };
	char path[512], word[32];
	unsigned long long first;
	long second, third;
	int saved = errno;
	FILE *file;

	path_of(path, sizeof(path), device->name);
	file = fopen(path, "r");
	if (!file)
		abort();
	while (fscanf(file, "%31s %llu %ld %ld", word, &first, &second, &third) == 4) {
		if (!strcmp(word, "flags")) {
			rules.has_flags = 1;
			rules.flags = first;
		} else if (!strcmp(word, "refuse")) {
			rules.refused = first;
			rules.refused_errno = second;
			rules.refused_for_good = third;
		} else if (!strcmp(word, "no-data-fd")) {
			rules.no_data_fd = first;
		} else if (!strcmp(word, "no-reset")) {
			rules.reset_errno = first;
		} else if (!strcmp(word, "read-most")) {
			rules.read_most = first;
		} else if (!strcmp(word, "pauses")) {
			rules.pauses = 1;
		} else if (!strcmp(word, "no-read")) {
			rules.read_state = first;
			rules.read_errno = second;
		} else {
			abort();
		}
	}
	fclose(file);
	errno = saved;
	return rules;
}

static struct device *by_fd(int fd)
{
	for (int i = 0; i < DEVICES; i++) {
		if (devices[i].name[0] && devices[i].fd == fd)
			return &devices[i];
	}
	return NULL;
}

static struct device *by_data_fd(int fd)
{
	for (int i = 0; i < DEVICES; i++) {
		if (devices[i].name[0] && fd >= 0 && devices[i].data_fd == fd)
			return &devices[i];
	}
	return NULL;
}

static void opened(int fd, const char *name)
{
	for (int i = 0; i < DEVICES; i++) {
		struct device *device = &devices[i];

		if (!device->name[0] || !strcmp(device->name, name)) {
			memset(device, 0, sizeof(*device));
			snprintf(device->name, sizeof(device->name), "%s", name);
			device->fd = fd;
			device->data_fd = -1;
			/*
			 * As other drivers do by themselves when they are opened: mtty would be
			 * in the state in which the last QEMU left it, and its kernel crashes
			 * if that was RESUMING.
			 */
			raw(fd, VFIO_DEVICE_RESET, NULL);
			return;
		}
	}
	abort();
}

/* The state that the device is in, as the kernel has it. */
static int state_of(const struct device *device)
{
	struct state_feature feature = {
		.head.argsz = sizeof(feature),
		.head.flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE,
	};
	int saved = errno, failed;

	failed = raw(device->fd, VFIO_DEVICE_FEATURE, &feature);
	errno = saved;
	if (device->failed || failed)
		return VFIO_DEVICE_STATE_ERROR;
	return feature.state.device_state;
}

static int set_state(struct device *device, struct state_feature *feature)
{
	struct rules rules = rules_of(device);
	int wanted = feature->state.device_state, ret = 0, number = 0;

	if (device->failed) {
		number = EIO;
	} else if (rules.refused == wanted) {
		number = rules.refused_errno;
		device->failed = rules.refused_for_good;
	} else if (raw(device->fd, VFIO_DEVICE_FEATURE, feature)) {
		number = errno;
	} else if (feature->state.data_fd >= 0) {
		device->data_fd = feature->state.data_fd;
		device->emptied = device->reads = 0;
		if (rules.no_data_fd == wanted) {
			syscall(SYS_close, feature->state.data_fd);
			feature->state.data_fd = device->data_fd = -1;
		}
	}
	/* Told last: who sees the record knows that it is done. */
	record(device->name, number ? "refused" : "entered", wanted, number ?: state_of(device));
	if (number)
		ret = fail(number);
	return ret;
}

static int feature_of(struct device *device, struct vfio_device_feature *feature)
{
	struct vfio_device_feature_migration *migration = (void *)feature->data;
	struct rules rules = rules_of(device);
	uint64_t from_kernel;

	switch (feature->flags & VFIO_DEVICE_FEATURE_MASK) {
	case VFIO_DEVICE_FEATURE_MIGRATION:
		if (raw(device->fd, VFIO_DEVICE_FEATURE, feature))
			return -1;
		if (!(feature->flags & VFIO_DEVICE_FEATURE_GET))
			return 0;
		from_kernel = migration->flags;
		if (rules.has_flags)
			migration->flags = rules.flags;
		record(device->name, "flags", from_kernel, migration->flags);
		return 0;
	case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
		if (feature->flags & VFIO_DEVICE_FEATURE_SET)
			return set_state(device, (void *)feature);
		break;
	case VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT:
		/*
		 * Debian's kernels log, but can't report (CONFIG_IOMMUFD is off). These devices do
		 * no DMA, so that there is nothing to report.
		 */
		return 0;
	}
	return raw(device->fd, VFIO_DEVICE_FEATURE, feature);
}

static int reset(struct device *device)
{
	struct rules rules = rules_of(device);
	int ret = rules.reset_errno ? fail(rules.reset_errno) : raw(device->fd, VFIO_DEVICE_RESET, NULL);

	if (!ret)
		device->failed = 0;
	record(device->name, "reset", ret ? errno : 0, state_of(device));
	return ret;
}

int ioctl(int fd, unsigned long request, ...)
{
	struct device *device;
	va_list more;
	void *argument;
	int ret;

	va_start(more, request);
	argument = va_arg(more, void *);
	va_end(more);
	if (request != VFIO_GROUP_GET_DEVICE_FD && request != VFIO_DEVICE_FEATURE &&
	    request != VFIO_DEVICE_RESET)
		return raw(fd, request, argument);
	pthread_mutex_lock(&lock);
	device = by_fd(fd);
	if (request == VFIO_GROUP_GET_DEVICE_FD) {
		ret = raw(fd, request, argument);
		if (ret >= 0)
			opened(ret, argument);
	} else if (!device) {
		ret = raw(fd, request, argument);
	} else if (request == VFIO_DEVICE_RESET) {
		ret = reset(device);
	} else {
		ret = feature_of(device, argument);
	}
	pthread_mutex_unlock(&lock);
	return ret;
}

static ssize_t read_state(struct device *device, void *buffer, size_t size)
{
	struct rules rules = rules_of(device);
	int state = state_of(device), number = 0;
	int live = state == PRE_COPY || state == PRE_COPY_P2P;
	ssize_t got = -1;

	if (rules.read_most && size > rules.read_most)
		size = rules.read_most;
	if (rules.read_state == state && device->reads) {
		number = rules.read_errno;
	} else if (rules.pauses && live && device->reads && !device->emptied) {
		device->emptied = 1;
		number = ENOMSG;
	} else {
		device->emptied = 0;
		device->reads++;
		got = syscall(SYS_read, device->data_fd, buffer, size);
		number = got < 0 ? errno : 0;
	}
	record(device->name, "read", number ? -number : got, state);
	if (number)
		errno = number;
	return number ? -1 : got;
}

ssize_t read(int fd, void *buffer, size_t size)
{
	struct device *device;
	ssize_t got;

	pthread_mutex_lock(&lock);
	device = by_data_fd(fd);
	if (!device) {
		pthread_mutex_unlock(&lock);
		return syscall(SYS_read, fd, buffer, size);
	}
	got = read_state(device, buffer, size);
	pthread_mutex_unlock(&lock);
	return got;
}

int close(int fd)
{
	struct device *device;

	pthread_mutex_lock(&lock);
	device = by_fd(fd);
	if (device)
		memset(device, 0, sizeof(*device));
	device = by_data_fd(fd);
	if (device)
		device->data_fd = -1;
	pthread_mutex_unlock(&lock);
	return syscall(SYS_close, fd);
}
