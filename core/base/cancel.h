// A cancellation that can be polled: what the core hands to drivers and long work.
#pragma once

#include "core/base/fd.h"

#include <gantry/abi.h>
#include <gantry/call.hpp>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace gantry {

/// Thread-safe; cancel() may come from anywhere, once or often.
class CancelSource {
  public:
    CancelSource();
    void cancel() noexcept;
    bool cancelled() const noexcept;
    int fd() const noexcept { return event_.get(); }

  private:
    UniqueFd event_;
};

/// A gantry_call owned by the core, with an error sink that turns into Error. Not movable: drivers
/// keep the pointer for the duration of the call. Use one per thread of work.
class CallScope {
  public:
    struct Settings {
        int64_t timeout_ns = 0; // 0: none
        const CancelSource *cancel = nullptr;
        std::function<void(const char *, uint64_t, uint64_t)> progress;
        std::string subject;
        std::vector<std::pair<std::string, std::string>> labels;
    };
    CallScope();
    explicit CallScope(Settings settings);
    ~CallScope();
    CallScope(const CallScope &) = delete;
    CallScope &operator=(const CallScope &) = delete;

    Call call() const noexcept;
    operator Call() const noexcept { return call(); }
    const gantry_call *raw() const noexcept;
    /// Throws what a driver reported together with `status`; returns on GANTRY_OK. `doing` names the
    /// call when the driver gave no sentence.
    void check(gantry_status status, const std::string &doing) const;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

} // namespace gantry
