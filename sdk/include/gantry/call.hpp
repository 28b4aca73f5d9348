// C++ view of what accompanies every driver call: deadline, cancellation, progress, log, subject.
#pragma once

#include <gantry/error.hpp>

#include <cstdint>
#include <poll.h>
#include <string_view>
#include <time.h>

namespace gantry {

/// A borrowed view of gantry_call; copy it freely within the call, never keep it. Thread-safe.
class Call {
  public:
    explicit Call(const gantry_call *raw) noexcept : raw_(raw) {}

    const gantry_call *raw() const noexcept { return raw_; }
    /// Pollable; -1 when the call cannot be cancelled.
    int cancel_fd() const noexcept { return raw_->cancel_fd; }
    /// CLOCK_MONOTONIC nanoseconds; 0 for none.
    int64_t deadline_ns() const noexcept { return raw_->deadline_ns; }
    std::string_view subject() const noexcept { return raw_->subject ? raw_->subject : ""; }

    bool cancelled() const noexcept {
        if (raw_->cancel_fd < 0) return false;
        pollfd p{raw_->cancel_fd, POLLIN, 0};
        return ::poll(&p, 1, 0) > 0;
    }

    /// Milliseconds until the deadline for poll(2): -1 without deadline, never negative otherwise.
    int remaining_ms() const noexcept {
        if (raw_->deadline_ns == 0) return -1;
        const int64_t left = raw_->deadline_ns - now_ns();
        return left <= 0 ? 0 : static_cast<int>(left / 1000000 > 1 << 30 ? 1 << 30 : left / 1000000 + 1);
    }

    /// Throws Error(kCancelled) or Error(kDeadline) when the caller has given up. Call it in loops.
    void check(std::string_view doing) const {
        if (cancelled())
            throw Error(ErrorClass::kCancelled, std::string(doing) + ": cancelled by the caller");
        if (raw_->deadline_ns != 0 && now_ns() > raw_->deadline_ns)
            throw Error(ErrorClass::kDeadline, std::string(doing) + ": the time given is over");
    }

    void progress(const char *what, uint64_t done, uint64_t total) const noexcept {
        if (raw_->progress) raw_->progress(raw_->ctx, what, done, total);
    }
    void log(int32_t level, const char *message) const noexcept {
        if (raw_->log) raw_->log(raw_->ctx, level, message);
    }

    static int64_t now_ns() noexcept {
        timespec t{};
        clock_gettime(CLOCK_MONOTONIC, &t);
        return t.tv_sec * 1000000000LL + t.tv_nsec;
    }

  private:
    const gantry_call *raw_;
};

} // namespace gantry
