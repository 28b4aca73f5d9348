// What all pulls of the engine share: connections and bandwidth. Thread-safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>

namespace gantry {

/// At most so many transfers at once. A blob waits for its first and takes more while they are free.
class Connections {
  public:
    explicit Connections(uint32_t most) : free_(most) {}
    class Slot {
      public:
        Slot() = default;
        explicit Slot(Connections &owner) : owner_(&owner) {}
        Slot(Slot &&other) noexcept : owner_(other.owner_) { other.owner_ = nullptr; }
        Slot &operator=(Slot &&) = delete;
        ~Slot();
        explicit operator bool() const { return owner_ != nullptr; }

      private:
        Connections *owner_ = nullptr;
    };
    /// Throws kCancelled when `cancelled` says so while it waits.
    Slot wait(const std::function<bool()> &cancelled);
    Slot take_if_free();

  private:
    std::mutex mutex_;
    std::condition_variable freed_;
    uint32_t free_;
};

/// A token bucket that holds a quarter of a second.
class Bandwidth {
  public:
    explicit Bandwidth(uint64_t bytes_per_second) : rate_(bytes_per_second) {}
    /// Waits until `bytes` may have come; returns early when `cancelled` says so.
    void took(uint64_t bytes, const std::function<bool()> &cancelled);

  private:
    const uint64_t rate_; // 0: no limit
    std::mutex mutex_;
    int64_t paid_until_ns_ = 0; // what came is paid for up to then
};

} // namespace gantry
