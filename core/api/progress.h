// Progress of long work as Docker streams it: one JSON object a line.
#pragma once

#include "core/api/http.h"

#include <boost/json/fwd.hpp>

#include <mutex>

namespace gantry {
class CancelSource;
class Error;
struct PullProgress;
} // namespace gantry

namespace gantry::api {

/// Progress lines of one answer: the head goes out with the first, so that an early error still has a
/// status of its own. Lines come from the threads that do the work, which must not wait for a client that
/// does not read: steps are left out while it is behind, and it is given up when it stays so.
class ProgressStream {
  public:
    /// `cancel` is told when the client is given up.
    ProgressStream(const Request &request, Response &response, CancelSource &cancel)
        : request_(request), response_(response), cancel_(cancel) {}

    /// A `step` is followed by others that say more.
    void line(const boost::json::object &object, bool step = false);
    void line(const PullProgress &progress);
    void failed(const Error &error);

  private:
    const Request &request_;
    Response &response_;
    CancelSource &cancel_;
    std::mutex mutex_;
    bool gone_ = false;
};

} // namespace gantry::api
