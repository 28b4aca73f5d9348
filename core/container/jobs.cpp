// See jobs.h. Threads instead of an event loop, because every job blocks in drivers and the database.
#include "core/container/jobs.h"

#include "core/base/log.h"

#include <exception>

namespace gantry {

Jobs::Jobs(int threads) {
    for (int i = 0; i < threads; ++i)
        threads_.emplace_back([this] { run(); });
}

Jobs::~Jobs() { stop(); }

void Jobs::stop() {
    {
        std::lock_guard lock(mutex_);
        stopped_ = true;
        queue_.clear();
    }
    changed_.notify_all();
    for (auto &thread : threads_) {
        if (thread.joinable()) thread.join();
    }
}

void Jobs::post_after(int64_t delay_ms, std::function<void()> work) {
    {
        std::lock_guard lock(mutex_);
        if (stopped_) return;
        queue_.emplace(std::chrono::steady_clock::now() + std::chrono::milliseconds(delay_ms),
                       std::move(work));
    }
    changed_.notify_one();
}

void Jobs::run() {
    std::unique_lock lock(mutex_);
    for (;;) {
        if (stopped_) return;
        if (queue_.empty()) {
            changed_.wait(lock);
            continue;
        }
        const auto due = queue_.begin()->first;
        if (due > std::chrono::steady_clock::now()) {
            changed_.wait_until(lock, due);
            continue;
        }
        auto work = std::move(queue_.begin()->second);
        queue_.erase(queue_.begin());
        lock.unlock();
        try {
            work();
        } catch (const std::exception &error) {
            log_error("background work: {}", error.what());
        }
        work = nullptr;
        lock.lock();
    }
}

} // namespace gantry
