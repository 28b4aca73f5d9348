// The edge of a shared object, both ways. guard() turns whatever C++ throws into a status and the
// caller's error sink; SubCall makes a C call with an error sink of its own and turns what comes back
// into gantry::Error. Used by the veneer inside plugins and by the proxies inside the host.
#pragma once

#include <gantry/call.hpp>

#include <algorithm>
#include <cstring>
#include <new>
#include <string>

namespace gantry::detail {

inline void report(const gantry_call *call, gantry_status status, int32_t errno_value, const char *message,
                   const char *hint) noexcept {
    if (call && call->error && call->error->set)
        call->error->set(call->error->ctx, status, errno_value, message, hint);
}

/// A receiver at the other side asked to stop with this status; it must come back unchanged.
class SinkStopped : public Error {
  public:
    explicit SinkStopped(gantry_status status)
        : Error(status > GANTRY_OK && status <= GANTRY_INTERNAL ? static_cast<ErrorClass>(status)
                                                                : ErrorClass::kInternal,
                "hand over results: the receiver stopped") {}
};
inline void check_sink(gantry_status status) {
    if (status != GANTRY_OK) throw SinkStopped(status);
}

/// Only inside a catch block.
inline gantry_status report_current(const gantry_call *call) noexcept {
    try {
        throw;
    } catch (const Error &e) {
        report(call, e.status(), e.errno_value(), e.message().c_str(),
               e.hint().empty() ? nullptr : e.hint().c_str());
        return e.status();
    } catch (const std::bad_alloc &) {
        report(call, GANTRY_NO_SPACE, ENOMEM, "run driver: out of memory", nullptr);
        return GANTRY_NO_SPACE;
    } catch (const std::exception &e) {
        report(call, GANTRY_INTERNAL, 0, e.what(), nullptr);
        return GANTRY_INTERNAL;
    } catch (...) {
        report(call, GANTRY_INTERNAL, 0, "run driver: an exception of unknown type was thrown",
               "this is a bug of the plugin; report it to its author");
        return GANTRY_INTERNAL;
    }
}

template <typename F> gantry_status guard(const gantry_call *call, F &&work) noexcept {
    try {
        work();
        return GANTRY_OK;
    } catch (...) {
        return report_current(call);
    }
}

/// A copy of a call with an error sink of its own; stays where it is made.
class SubCall {
  public:
    explicit SubCall(const gantry_call *outer, int64_t default_timeout_ns = 0) noexcept {
        call_.cancel_fd = -1;
        call_.subject = "";
        if (outer)
            std::memcpy(static_cast<void *>(&call_), outer,
                        std::min<size_t>(sizeof call_, outer->struct_size));
        call_.struct_size = sizeof call_;
        if (!call_.subject) call_.subject = "";
        if (call_.deadline_ns == 0 && default_timeout_ns > 0)
            call_.deadline_ns = Call::now_ns() + default_timeout_ns;
        sink_.struct_size = sizeof sink_;
        sink_.ctx = this;
        sink_.set = [](void *ctx, gantry_status status, int32_t errno_value, const char *message,
                       const char *hint) {
            auto &self = *static_cast<SubCall *>(ctx);
            try {
                self.message_.assign(message ? message : "", message ? strnlen(message, 8192) : 0);
                self.hint_.assign(hint ? hint : "", hint ? strnlen(hint, 2048) : 0);
                self.status_ = status;
                self.errno_ = errno_value;
            } catch (...) { // out of memory: the status alone has to do
                self.status_ = GANTRY_OK;
            }
        };
        call_.error = &sink_;
    }
    SubCall(const SubCall &) = delete;
    SubCall &operator=(const SubCall &) = delete;

    const gantry_call *raw() const noexcept { return &call_; }

    /// Throws unless `status` is GANTRY_OK. `doing` is the sentence when the other side gave none.
    void check(gantry_status status, std::string_view doing) {
        if (status == GANTRY_OK) return;
        const bool known = status > GANTRY_OK && status <= GANTRY_INTERNAL;
        const auto cls = known ? static_cast<ErrorClass>(status) : ErrorClass::kInternal;
        if (known && status_ == status && !message_.empty()) throw Error(cls, message_, hint_, errno_);
        throw Error(cls, std::string(doing) + (known ? ": no reason given (class " : ": unknown status (") +
                             std::to_string(status) + ")");
    }

  private:
    gantry_call call_{};
    gantry_error_sink sink_{};
    gantry_status status_ = GANTRY_OK;
    int32_t errno_ = 0;
    std::string message_, hint_;
};

} // namespace gantry::detail
