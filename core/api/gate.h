// Rest for the whole engine: while the gate is closed no request that could touch a layer is served, and
// it closes only when the last one before has ended. Looking, waiting and logs go on.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>

namespace gantry::api {

class Request;

class Gate {
  public:
    /// A pass for the time of a request; null when the request needs none. Throws HttpError 503.
    std::shared_ptr<void> enter(const Request &request);

    class Closed {
      public:
        /// Waits for the requests at work. Throws kFailedPrecondition when they go on for too long, or
        /// when somebody else has closed it.
        /// `what` the engine does meanwhile: it is told to those who are turned away.
        explicit Closed(Gate &gate, const char *what = "move storage");
        ~Closed();
        Closed(const Closed &) = delete;
        Closed &operator=(const Closed &) = delete;
        /// For ever: until the engine ends.
        void keep() noexcept { kept_ = true; }

      private:
        Gate &gate_;
        bool kept_ = false;
    };

  private:
    std::mutex mutex_;
    std::condition_variable left_;
    unsigned inside_ = 0;
    bool closed_ = false;
    const char *what_ = "";
};

} // namespace gantry::api
