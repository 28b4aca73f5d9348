#include "core/base/failpoint.h"

#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <unistd.h>

namespace gantry::failpoints {

std::atomic<bool> armed{false};

namespace {

std::string wanted, trace;
std::atomic<int> left{0};

const bool from_environment = [] {
    if (const char *what = std::getenv("GANTRY_FAILPOINT")) arm(what);
    return true;
}();

} // namespace

void arm(const std::string &what) {
    const size_t colon = what.rfind(':');
    trace = what.starts_with('?') ? what.substr(1) : "";
    wanted = what.substr(0, colon);
    left = colon == what.npos ? 1 : std::atoi(what.c_str() + colon + 1);
    armed = !what.empty();
}

void reached(const char *name) noexcept {
    if (!trace.empty()) {
        const int fd = ::open(trace.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        const std::string line = std::string(name) + "\n";
        if (fd >= 0 && ::write(fd, line.data(), line.size()) > 0) ::close(fd);
    } else if (wanted == name && left.fetch_sub(1) == 1) {
        ::kill(::getpid(), SIGKILL);
        for (;;)
            ::pause(); // other threads may still take a step, this one does not
    }
}

} // namespace gantry::failpoints
