// A meeting inside a plugin: a call returns only when as many others are inside as the option says. A host
// that calls its drivers under any lock of its own never lets the second one in.
#pragma once

#include <gantry/plugin.hpp>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>

class Meeting {
  public:
    explicit Meeting(int64_t members) : members_(members) {}

    /// Throws kDeadline when the others do not come.
    void attend(const gantry::Call &call) {
        // The host's database is free as well: were this call made within a transaction, the write would
        // be refused or wait for itself.
        gantry::plugin_host().apply(call, {{"met", "yes", gantry::Host::Write::Expect::kNothing, {}}});
        std::unique_lock lock(mutex_);
        const int64_t round = round_;
        if (++inside_ == members_) {
            inside_ = 0;
            ++round_;
            all_.notify_all();
            return;
        }
        if (!all_.wait_for(lock, std::chrono::seconds(60), [&] { return round_ != round; }))
            throw gantry::Error(gantry::ErrorClass::kDeadline,
                                "meet inside the driver: the others never came");
    }

  private:
    const int64_t members_;
    std::mutex mutex_;
    std::condition_variable all_;
    int64_t inside_ = 0, round_ = 0;
};

inline const gantry_option kMeetingOptions[] = {
    gantry::option_int("members", "8", 1, 64, "calls that must be inside at once")};
