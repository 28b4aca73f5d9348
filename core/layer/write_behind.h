// A durable layer is synced when it is finished. Left to that moment, the disk would idle while files are
// made and the processor while they are written: so the file system is synced now and then meanwhile, by a
// thread that comes into being with the first `kGap` compressed bytes.
#pragma once

#include "core/base/fd.h"

#include <gantry/error.hpp>

#include <cerrno>
#include <condition_variable>
#include <fcntl.h>
#include <mutex>
#include <thread>
#include <unistd.h>

namespace gantry {

class WriteBehind {
  public:
    explicit WriteBehind(int root_fd) : root_(root_fd) {}
    ~WriteBehind() {
        {
            const std::lock_guard lock(mutex_);
            ended_ = true;
        }
        changed_.notify_all();
    }
    void count(size_t bytes) {
        bytes_ += bytes;
        if (bytes_ < kGap) return;
        bytes_ = 0;
        if (!thread_.joinable()) {
            dir_.reset(::openat(root_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)); // root_ may be O_PATH
            if (!dir_) return;
            thread_ = std::jthread([this] { run(); });
        }
        {
            const std::lock_guard lock(mutex_);
            due_ = true;
        }
        changed_.notify_all();
    }

    /// The kernel tells a failed write to one asker only: commit() would not hear of it.
    void end() {
        {
            const std::lock_guard lock(mutex_);
            ended_ = true;
        }
        changed_.notify_all();
        if (thread_.joinable()) thread_.join();
        if (error_ != 0) throw Error::from_errno(error_, "sync the layer");
    }

  private:
    static constexpr size_t kGap = 16 << 20;
    void run() {
        for (;;) {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] { return due_ || ended_; });
            if (ended_) return;
            due_ = false;
            lock.unlock();
            if (::syncfs(dir_.get()) != 0) error_ = errno;
        }
    }

    int root_;
    size_t bytes_ = 0;
    UniqueFd dir_;
    std::mutex mutex_;
    std::condition_variable changed_;
    bool due_ = false, ended_ = false;
    int error_ = 0;       // read after the join
    std::jthread thread_; // last: joined before what it uses goes
};

} // namespace gantry
