#include "core/image/transfer_limits.h"

#include <gantry/call.hpp>

#include <algorithm>
#include <chrono>
#include <thread>

namespace gantry {
namespace {

constexpr int64_t kBurst = 250'000'000;     // ns
constexpr int64_t kLongestNap = 50'000'000; // between two looks at the cancellation

} // namespace

Connections::Slot::~Slot() {
    if (!owner_) return;
    {
        const std::lock_guard lock(owner_->mutex_);
        ++owner_->free_;
    }
    owner_->freed_.notify_one();
}

Connections::Slot Connections::wait(const std::function<bool()> &cancelled) {
    std::unique_lock lock(mutex_);
    while (free_ == 0) {
        freed_.wait_for(lock, std::chrono::nanoseconds(kLongestNap));
        if (cancelled())
            throw Error(ErrorClass::kCancelled, "wait for a connection: cancelled by the caller");
    }
    --free_;
    return Slot(*this);
}

Connections::Slot Connections::take_if_free() {
    const std::lock_guard lock(mutex_);
    if (free_ == 0) return {};
    --free_;
    return Slot(*this);
}

void Bandwidth::took(uint64_t bytes, const std::function<bool()> &cancelled) {
    if (rate_ == 0) return;
    int64_t due = 0;
    {
        const std::lock_guard lock(mutex_);
        paid_until_ns_ = std::max(paid_until_ns_, Call::now_ns() - kBurst);
        paid_until_ns_ += static_cast<int64_t>(static_cast<double>(bytes) * 1e9 / static_cast<double>(rate_));
        due = paid_until_ns_;
    }
    for (int64_t left = due - Call::now_ns(); left > 0 && !cancelled(); left = due - Call::now_ns())
        std::this_thread::sleep_for(std::chrono::nanoseconds(std::min(left, kLongestNap)));
}

} // namespace gantry
