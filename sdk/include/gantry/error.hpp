// The one exception type of gantry: class, errno, one sentence, and what the user can do about it.
// It never crosses a shared object's edge; each edge converts it to and from gantry_status.
#pragma once

#include <gantry/abi.h>

#include <cerrno>
#include <cstring>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

namespace gantry {

enum class ErrorClass : int32_t {
    kNotFound = GANTRY_NOT_FOUND,
    kAlreadyExists = GANTRY_ALREADY_EXISTS,
    kFailedPrecondition = GANTRY_FAILED_PRECONDITION,
    kInvalidArgument = GANTRY_INVALID_ARGUMENT,
    kUnsupported = GANTRY_UNSUPPORTED,
    kUnavailable = GANTRY_UNAVAILABLE,
    kPermissionDenied = GANTRY_PERMISSION_DENIED,
    kNoSpace = GANTRY_NO_SPACE,
    kDataLoss = GANTRY_DATA_LOSS,
    kCancelled = GANTRY_CANCELLED,
    kDeadline = GANTRY_DEADLINE,
    kInternal = GANTRY_INTERNAL,
};

/// Message form: verb + object + cause, no full stop: "mount overlay for container web: no space".
class Error : public std::exception {
  public:
    Error(ErrorClass error_class, std::string message, std::string hint = {}, int errno_value = 0)
        : class_(error_class), errno_(errno_value), message_(std::move(message)), hint_(std::move(hint)) {}

    /// Builds "<message>: <strerror(errno_value)>", the class chosen from errno.
    static Error from_errno(int errno_value, std::string message) {
        return {class_of_errno(errno_value),
                std::move(message) + ": " + strerror_text(errno_value),
                {},
                errno_value};
    }

    ErrorClass error_class() const noexcept { return class_; }
    gantry_status status() const noexcept { return static_cast<gantry_status>(class_); }
    int errno_value() const noexcept { return errno_; }
    const std::string &message() const noexcept { return message_; }
    const std::string &hint() const noexcept { return hint_; }
    const char *what() const noexcept override { return message_.c_str(); }

    /// "<prefix>: <message>", everything else kept: how a caller adds its verb and object.
    Error with_context(std::string_view prefix) const {
        return {class_, std::string(prefix) + ": " + message_, hint_, errno_};
    }

    static ErrorClass class_of_errno(int errno_value) noexcept {
        switch (errno_value) {
        case ENOENT:
        case ESRCH:
        case ENODEV:
        case ENXIO: return ErrorClass::kNotFound;
        case EEXIST:
        case EADDRINUSE: return ErrorClass::kAlreadyExists;
        case EBUSY:
        case ENOTEMPTY:
        case ETXTBSY: return ErrorClass::kFailedPrecondition;
        case EINVAL:
        case ENAMETOOLONG:
        case ELOOP:
        case ENOTDIR:
        case EISDIR: return ErrorClass::kInvalidArgument;
        case ENOSYS:
        case EOPNOTSUPP:
        case EAFNOSUPPORT:
        case EPROTONOSUPPORT: return ErrorClass::kUnsupported;
        case EAGAIN:
        case ECONNREFUSED:
        case ECONNRESET:
        case EHOSTUNREACH:
        case ENETUNREACH:
        case EPIPE: return ErrorClass::kUnavailable;
        case EPERM:
        case EACCES:
        case EROFS: return ErrorClass::kPermissionDenied;
        case ENOSPC:
        case EDQUOT:
        case EMFILE:
        case ENFILE:
        case ENOMEM: return ErrorClass::kNoSpace;
        case EIO:
        case EBADMSG: return ErrorClass::kDataLoss;
        case ECANCELED:
        case EINTR: return ErrorClass::kCancelled;
        case ETIMEDOUT: return ErrorClass::kDeadline;
        default: return ErrorClass::kInternal;
        }
    }

  private:
    static std::string strerror_text(int errno_value) {
        char buffer[128];
#if defined(_GNU_SOURCE) && defined(__GLIBC__)
        return strerror_r(errno_value, buffer, sizeof buffer);
#else
        return strerror_r(errno_value, buffer, sizeof buffer) == 0 ? buffer : "unknown error";
#endif
    }

    ErrorClass class_;
    int errno_;
    std::string message_;
    std::string hint_;
};

} // namespace gantry
