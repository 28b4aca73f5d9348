// A few threads that run what must not run on the runtime's event thread: exit handling, restarts
// after their delay, health probes. Jobs are ordered by time; an exception is logged and dropped.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

namespace gantry {

class Jobs {
  public:
    explicit Jobs(int threads);
    ~Jobs(); // what has not begun is dropped
    void post(std::function<void()> work) { post_after(0, std::move(work)); }
    void post_after(int64_t delay_ms, std::function<void()> work);
    void stop();

  private:
    void run();
    std::mutex mutex_;
    std::condition_variable changed_;
    std::multimap<std::chrono::steady_clock::time_point, std::function<void()>> queue_;
    bool stopped_ = false;
    std::vector<std::thread> threads_;
};

} // namespace gantry
