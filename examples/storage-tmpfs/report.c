#include "tmpfs.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static gantry_status tell(const gantry_call *call, gantry_status status, int error, const char *format,
                          va_list arguments) {
    char message[1024];
    int n = vsnprintf(message, sizeof message, format, arguments);
    if (error != 0 && n >= 0 && (size_t)n < sizeof message - 3) {
        char text[128];
        /* The GNU strerror_r may return a constant; the buffer may stay unused. */
        snprintf(message + n, sizeof message - (size_t)n, ": %s", strerror_r(error, text, sizeof text));
    }
    call->error->set(call->error->ctx, status, error, message, NULL);
    return status;
}

gantry_status report(const gantry_call *call, gantry_status status, int error, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    status = tell(call, status, error, format, arguments);
    va_end(arguments);
    return status;
}

gantry_status report_errno(const gantry_call *call, int error, const char *format, ...) {
    gantry_status status = GANTRY_INTERNAL;
    va_list arguments;
    switch (error) {
    case ENOENT: status = GANTRY_NOT_FOUND; break;
    case EEXIST: status = GANTRY_ALREADY_EXISTS; break;
    case EBUSY:
    case ENOTEMPTY: status = GANTRY_FAILED_PRECONDITION; break;
    case EINVAL:
    case ENOTDIR:
    case ELOOP: status = GANTRY_INVALID_ARGUMENT; break;
    case ENODEV:
    case ENOSYS:
    case EOPNOTSUPP: status = GANTRY_UNSUPPORTED; break;
    case EPERM:
    case EACCES:
    case EROFS: status = GANTRY_PERMISSION_DENIED; break;
    case ENOSPC:
    case ENOMEM:
    case EMFILE:
    case ENFILE: status = GANTRY_NO_SPACE; break;
    case EAGAIN: status = GANTRY_UNAVAILABLE; break;
    case EIO: status = GANTRY_DATA_LOSS; break;
    default: break;
    }
    va_start(arguments, format);
    status = tell(call, status, error, format, arguments);
    va_end(arguments);
    return status;
}

gantry_status given_up(const gantry_call *call) {
    if (call->cancel_fd >= 0) {
        struct pollfd waiting = {call->cancel_fd, POLLIN, 0};
        if (poll(&waiting, 1, 0) > 0) return GANTRY_CANCELLED;
    }
    if (call->deadline_ns != 0) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if ((int64_t)now.tv_sec * 1000000000 + now.tv_nsec > call->deadline_ns) return GANTRY_DEADLINE;
    }
    return GANTRY_OK;
}
