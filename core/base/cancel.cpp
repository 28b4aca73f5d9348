#include "core/base/cancel.h"

#include "core/base/log.h"

#include <cerrno>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace gantry {

CancelSource::CancelSource() : event_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!event_) throw Error::from_errno(errno, "make cancellation event");
}

void CancelSource::cancel() noexcept {
    const uint64_t one = 1;
    if (::write(event_.get(), &one, sizeof one) < 0) return; // full: already cancelled
}

bool CancelSource::cancelled() const noexcept {
    pollfd p{event_.get(), POLLIN, 0};
    return ::poll(&p, 1, 0) > 0;
}

struct CallScope::State {
    Settings settings;
    gantry_error_sink sink{};
    gantry_call call{};
    std::vector<gantry_label> labels;
    bool reported = false;
    gantry_status status = GANTRY_OK;
    int32_t errno_value = 0;
    std::string message, hint;
};

CallScope::CallScope() : CallScope(Settings{}) {}

CallScope::CallScope(Settings settings) : state_(std::make_unique<State>()) {
    State &s = *state_;
    s.settings = std::move(settings);
    s.sink.struct_size = sizeof s.sink;
    s.sink.ctx = &s;
    s.sink.set = [](void *ctx, gantry_status status, int32_t errno_value, const char *message,
                    const char *hint) {
        auto &state = *static_cast<State *>(ctx);
        state.reported = true;
        state.status = status;
        state.errno_value = errno_value;
        try {
            state.message.assign(message ? message : "", message ? strnlen(message, 8192) : 0);
            state.hint.assign(hint ? hint : "", hint ? strnlen(hint, 2048) : 0);
        } catch (...) {
            state.reported = false;
        }
    };
    s.call.struct_size = sizeof s.call;
    s.call.cancel_fd = s.settings.cancel ? s.settings.cancel->fd() : -1;
    s.call.deadline_ns = s.settings.timeout_ns > 0 ? Call::now_ns() + s.settings.timeout_ns : 0;
    s.call.error = &s.sink;
    s.call.ctx = &s;
    if (s.settings.progress)
        s.call.progress = [](void *ctx, const char *what, uint64_t done, uint64_t total) {
            try {
                static_cast<State *>(ctx)->settings.progress(what, done, total);
            } catch (...) { // progress is advisory
            }
        };
    s.call.log = [](void *, int32_t level, const char *message) {
        const int clamped = level < 0 ? 0 : level > 3 ? 3 : level;
        if (log_enabled(static_cast<LogLevel>(clamped)))
            log_line(static_cast<LogLevel>(clamped), message ? message : "");
    };
    s.call.subject = s.settings.subject.c_str();
    for (const auto &[key, value] : s.settings.labels)
        s.labels.push_back({key.c_str(), value.c_str()});
    s.call.labels = s.labels.data();
    s.call.label_count = static_cast<uint32_t>(s.labels.size());
}

CallScope::~CallScope() = default;

Call CallScope::call() const noexcept { return Call(&state_->call); }
const gantry_call *CallScope::raw() const noexcept { return &state_->call; }

void CallScope::check(gantry_status status, const std::string &doing) const {
    if (status == GANTRY_OK) return;
    State &s = *state_;
    const bool known = status > GANTRY_OK && status <= GANTRY_INTERNAL;
    const auto cls = known ? static_cast<ErrorClass>(status) : ErrorClass::kInternal;
    if (s.reported && s.status == status) {
        s.reported = false;
        throw Error(cls, s.message.empty() ? doing + ": no reason given" : s.message, s.hint, s.errno_value);
    }
    throw Error(cls, doing + (known ? ": the driver gave no reason (class " + std::to_string(status) + ")"
                                    : ": the driver returned the unknown status " + std::to_string(status)));
}

} // namespace gantry
