// Fan-out of events. Each subscriber owns a bounded queue with an eventfd that is readable while the
// queue has something or is closed, so that an event loop can wait for it; publishing never waits.
#include "core/events/events.h"

#include "core/base/fd.h"
#include "core/base/ids.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <sys/eventfd.h>
#include <unistd.h>

namespace gantry {

namespace {
constexpr size_t kRing = 1024;
constexpr size_t kQueueLimit = 4096;
} // namespace

struct Events::Subscription::Queue {
    std::mutex mutex;
    std::condition_variable filled;
    std::deque<Event> events;
    bool closed = false;
    UniqueFd signal{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};

    Queue() {
        if (!signal) throw Error::from_errno(errno, "make event queue");
    }
    // The eventfd is a level: 1 while readable, drained when the queue runs empty.
    void raise() {
        const uint64_t one = 1;
        if (::write(signal.get(), &one, sizeof one) < 0) return; // already raised
    }
    void lower() {
        uint64_t value;
        if (::read(signal.get(), &value, sizeof value) < 0) return; // already lowered
    }
    void push(const Event &event) {
        {
            std::lock_guard lock(mutex);
            if (closed) return;
            if (events.size() >= kQueueLimit) events.pop_front();
            events.push_back(event);
            raise();
        }
        filled.notify_one();
    }
};

struct Events::Impl {
    std::mutex mutex;
    std::deque<Event> ring;
    std::vector<std::weak_ptr<Subscription::Queue>> queues;
};

Events::Events() : impl_(std::make_shared<Impl>()) {}

Events::~Events() {
    std::lock_guard lock(impl_->mutex);
    for (auto &weak : impl_->queues) {
        if (auto queue = weak.lock()) {
            std::lock_guard inner(queue->mutex);
            queue->closed = true;
            queue->raise();
            queue->filled.notify_all();
        }
    }
}

void Events::publish(Event event) {
    std::lock_guard lock(impl_->mutex);
    if (event.time_ns == 0) event.time_ns = wall_ns();
    std::erase_if(impl_->queues, [&](auto &weak) {
        auto queue = weak.lock();
        if (queue) queue->push(event);
        return !queue;
    });
    impl_->ring.push_back(std::move(event));
    if (impl_->ring.size() > kRing) impl_->ring.pop_front();
}

std::unique_ptr<Events::Subscription> Events::subscribe(int64_t since_ns) {
    auto subscription = std::make_unique<Subscription>();
    subscription->queue_ = std::make_shared<Subscription::Queue>();
    subscription->owner_ = this;
    std::lock_guard lock(impl_->mutex);
    if (since_ns != 0) {
        for (const Event &event : impl_->ring) {
            if (event.time_ns >= since_ns) subscription->queue_->push(event);
        }
    }
    impl_->queues.push_back(subscription->queue_);
    return subscription;
}

Events::Subscription::~Subscription() = default;

bool Events::Subscription::next(Event &event, int timeout_ms) {
    std::unique_lock lock(queue_->mutex);
    auto ready = [&] { return queue_->closed || !queue_->events.empty(); };
    if (timeout_ms < 0) {
        queue_->filled.wait(lock, ready);
    } else if (!queue_->filled.wait_for(lock, std::chrono::milliseconds(timeout_ms), ready)) {
        return false;
    }
    if (queue_->events.empty()) return false;
    event = std::move(queue_->events.front());
    queue_->events.pop_front();
    if (queue_->events.empty() && !queue_->closed) queue_->lower();
    return true;
}

int Events::Subscription::fd() const { return queue_->signal.get(); }

void Events::Subscription::close() {
    {
        std::lock_guard lock(queue_->mutex);
        queue_->closed = true;
        queue_->raise();
    }
    queue_->filled.notify_all();
}

} // namespace gantry
