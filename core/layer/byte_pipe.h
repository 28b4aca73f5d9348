// Decompression and file creation cost about the same for a layer, so they run in two threads with
// this bounded queue of recycled buffers between them: 16 x 256 KiB stays within the caches.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace gantry {

class BytePipe {
  public:
    static constexpr size_t kBufferSize = 256 << 10;
    static constexpr size_t kBuffers = 16;
    struct Buffer {
        std::unique_ptr<uint8_t[]> bytes;
        size_t size = 0;
    };

    /// An empty buffer of kBufferSize; waits while all are in flight. False: the reader has gone.
    bool acquire(Buffer &out) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return reader_gone_ || !free_.empty() || made_ < kBuffers; });
        if (reader_gone_) return false;
        if (free_.empty()) {
            out = {std::make_unique_for_overwrite<uint8_t[]>(kBufferSize), 0};
            ++made_;
        } else {
            out = std::move(free_.back());
            free_.pop_back();
            out.size = 0;
        }
        return true;
    }
    void push(Buffer buffer) {
        {
            const std::lock_guard lock(mutex_);
            full_.push_back(std::move(buffer));
        }
        changed_.notify_all();
    }
    /// The writer's end, with what stopped it, if anything.
    void finish(std::exception_ptr error) {
        {
            const std::lock_guard lock(mutex_);
            finished_ = true;
            error_ = std::move(error);
        }
        changed_.notify_all();
    }

    /// False at the end; throws what stopped the writer (after everything it wrote before). The
    /// buffer in `out` goes back to the pool first.
    bool pop(Buffer &out) {
        std::unique_lock lock(mutex_);
        if (out.bytes) {
            free_.push_back(std::move(out));
            changed_.notify_all();
        }
        out = {};
        changed_.wait(lock, [&] { return finished_ || !full_.empty(); });
        if (full_.empty()) {
            if (error_) std::rethrow_exception(error_);
            return false;
        }
        out = std::move(full_.front());
        full_.pop_front();
        return true;
    }
    void leave_reader() {
        {
            const std::lock_guard lock(mutex_);
            reader_gone_ = true;
        }
        changed_.notify_all();
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<Buffer> free_;
    std::deque<Buffer> full_;
    size_t made_ = 0;
    bool finished_ = false, reader_gone_ = false;
    std::exception_ptr error_;
};

} // namespace gantry
