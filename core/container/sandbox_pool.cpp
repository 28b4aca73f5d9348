// See sandbox_pool.h. A failure to make one (no bridge, no cgroup) must not spin or fill the log: the
// delay doubles to a minute, one cause is logged once, and starts fall back to the cold path, which
// reports the error.
#include "core/container/sandbox_pool.h"

#include "core/base/ids.h"
#include "core/base/log.h"

#include <gantry/error.hpp>

#include <chrono>

namespace gantry {

SandboxPool::SandboxPool(Runtime &runtime, Networks *networks, uint32_t size)
    : runtime_(runtime), networks_(networks), size_(size) {}

SandboxPool::~SandboxPool() { stop(); }

void SandboxPool::start() {
    std::lock_guard lock(mutex_);
    if (size_ > 0 && !stopped_ && !thread_.joinable()) thread_ = std::thread([this] { run(); });
}

void SandboxPool::stop() {
    {
        std::lock_guard lock(mutex_);
        stopped_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
    for (auto &warm : ready_) {
        detach(warm.sandbox->id());
        warm.sandbox.reset();
    }
    ready_.clear();
}

void SandboxPool::detach(const std::string &id) noexcept {
    try {
        if (networks_) networks_->detach_all(id);
    } catch (const std::exception &error) {
        // The engine's next start detaches endpoints whose owner is gone.
        log_warn("detach warm sandbox {}: {}", id, error.what());
    }
}

std::optional<WarmSandbox> SandboxPool::take() {
    std::optional<WarmSandbox> out;
    {
        std::lock_guard lock(mutex_);
        if (stopped_ || ready_.empty()) return out;
        out = std::move(ready_.front());
        ready_.pop_front();
    }
    changed_.notify_all();
    return out;
}

void SandboxPool::add_ids(std::set<std::string> &to) {
    std::lock_guard lock(mutex_);
    for (const auto &warm : ready_)
        to.insert(warm.sandbox->id());
    if (!making_.empty()) to.insert(making_);
}

std::optional<WarmSandbox> SandboxPool::make() {
    const std::string id = new_id();
    {
        std::lock_guard lock(mutex_);
        making_ = id;
    }
    try {
        WarmSandbox warm;
        warm.sandbox = runtime_.prepare(id, {});
        if (networks_) {
            AttachRequest request;
            request.owner = id;
            request.netns_fd = warm.sandbox->netns_fd();
            warm.endpoint = networks_->attach(request);
        }
        if (!complaint_.empty()) log_info("warm sandboxes can be prepared again");
        complaint_.clear();
        return warm;
    } catch (const std::exception &error) {
        if (complaint_ != error.what())
            log_warn("prepare warm sandbox: {} (starts are slower until that is mended)", error.what());
        complaint_ = error.what();
        detach(id);
        return std::nullopt;
    }
}

void SandboxPool::run() {
    int delay_ms = 1000;
    std::unique_lock lock(mutex_);
    while (!stopped_) {
        if (ready_.size() >= size_) {
            changed_.wait(lock);
            continue;
        }
        // Right after a take the container's own start needs the processors more.
        if (!ready_.empty()) changed_.wait_for(lock, std::chrono::milliseconds(20), [&] { return stopped_; });
        if (stopped_) return;
        lock.unlock();
        auto warm = make();
        lock.lock();
        making_.clear();
        if (warm) {
            ready_.push_back(std::move(*warm));
            delay_ms = 1000;
        } else {
            changed_.wait_for(lock, std::chrono::milliseconds(delay_ms), [&] { return stopped_; });
            delay_ms = std::min(delay_ms * 2, 60000);
        }
    }
}

} // namespace gantry
