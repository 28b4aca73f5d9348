// The event stream: what happened to containers, images, networks and volumes, kept in a ring of the
// last 1024 and sent to subscribers.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace gantry {

struct Event {
    std::string type;   // "container", "image", "network", "volume"
    std::string action; // "start", "die", "exec_create: ls", ...
    std::string id;     // actor: container id, image name or id, network id, volume name
    std::map<std::string, std::string> attributes; // name, image, exitCode, labels, ...
    int64_t time_ns = 0;
};

/// Thread-safe. publish() never blocks on a slow subscriber: a queue of more than 4096 drops its
/// oldest entries.
class Events {
  public:
    class Subscription {
      public:
        ~Subscription();
        /// Next event; false after `timeout_ms` without one (-1: wait for ever). After close() what had come
        /// before is still given, then false at once.
        bool next(Event &event, int timeout_ms);
        /// Pollable: readable while next() would not block.
        int fd() const;
        void close();

      private:
        friend class Events;
        struct Queue;
        std::shared_ptr<Queue> queue_;
        Events *owner_ = nullptr;
    };

    Events();
    ~Events();
    void publish(Event event); // fills in time_ns when 0
    /// Events since `since_ns` (0: none of the past) come first.
    std::unique_ptr<Subscription> subscribe(int64_t since_ns);

  private:
    struct Impl;
    std::shared_ptr<Impl> impl_;
};

} // namespace gantry
