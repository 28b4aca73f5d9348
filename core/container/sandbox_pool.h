// Sandboxes of the default shape kept ready, with an endpoint on the default bridge or without any: most
// of a start's cost is namespaces, cgroup and link, and none of it depends on the container.
#pragma once

#include "core/network/networks.h"
#include "core/runtime/runtime.h"

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>

namespace gantry {

struct WarmSandbox {
    std::unique_ptr<Sandbox> sandbox;
    std::optional<Endpoint> endpoint;
};

class SandboxPool {
  public:
    /// Without `networks`, sandboxes have a loopback device only.
    SandboxPool(Runtime &runtime, Networks *networks, uint32_t size);
    ~SandboxPool();
    void start(); // idempotent
    void stop();  // ends what is kept
    /// One if there is one, at once.
    std::optional<WarmSandbox> take();
    /// Of what is kept and what is being made.
    void add_ids(std::set<std::string> &to);

  private:
    void run();
    std::optional<WarmSandbox> make();
    void detach(const std::string &id) noexcept;
    Runtime &runtime_;
    Networks *networks_;
    const uint32_t size_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<WarmSandbox> ready_;
    bool stopped_ = false;
    std::string making_;
    std::string complaint_; // what was logged last
    std::thread thread_;
};

} // namespace gantry
