// Attach and logs: whatever moves bytes between a client and a container's first process. The engine
// never copies live output itself; connections are handed to the shim.
#include "core/container/containers_impl.h"

#include "core/base/ids.h"
#include "core/base/log.h"

#include <gantry/error.hpp>

#include <cerrno>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry {

namespace {

[[noreturn]] void conflict(const std::string &message) {
    throw Error(ErrorClass::kFailedPrecondition, message);
}

} // namespace

bool send_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
        ssize_t done = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (done < 0 && errno == ENOTSOCK) done = ::write(fd, bytes.data(), bytes.size());
        if (done < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) return false;
            pollfd p{fd, POLLOUT, 0};
            if (::poll(&p, 1, 10000) <= 0) return false;
            continue;
        }
        bytes.remove_prefix(static_cast<size_t>(done));
    }
    return true;
}

std::string frame_header(int stream, size_t size) {
    std::string head(8, '\0');
    head[0] = static_cast<char>(stream);
    for (unsigned i = 0; i < 4; ++i)
        head[4 + i] = static_cast<char>((size >> (24 - 8 * i)) & 0xff);
    return head;
}

std::string parse_detach_keys(const std::string &text, bool tty) {
    if (text.empty()) return tty ? "\x10\x11" : "";
    std::string out;
    size_t from = 0;
    while (from < text.size()) {
        const size_t comma = text.find(',', from);
        const std::string key = text.substr(from, comma == text.npos ? comma : comma - from);
        from = comma == text.npos ? text.size() : comma + 1;
        if (key.size() == 1) {
            out += key;
            continue;
        }
        if (key.size() == 6 && key.starts_with("ctrl-")) {
            const char c = key[5];
            static const std::string_view kOthers = "@[\\]^_";
            if (c >= 'a' && c <= 'z') {
                out += static_cast<char>(c - 'a' + 1);
                continue;
            }
            if (kOthers.find(c) != kOthers.npos) {
                out += static_cast<char>(c & 0x1f);
                continue;
            }
        }
        throw Error(ErrorClass::kInvalidArgument, "Invalid detach keys (" + text + ") provided");
    }
    return out;
}

void Containers::attach(const std::string &name, UniqueFd connection, const AttachRequestOptions &options) {
    attach(
        name, [&] { return std::move(connection); }, options);
}

void Containers::attach(const std::string &name, const std::function<UniqueFd()> &accept,
                        const AttachRequestOptions &options) {
    auto record = impl_->find(name);
    AttachOptions to;
    parse_detach_keys(options.detach_keys, false);
    bool tty;
    {
        std::lock_guard lock(record->mutex);
        if (record->state.paused) {
            conflict("Container " + record->id + " is paused, unpause the container before attach");
        }
        if (record->state.restarting) {
            conflict("Container " + record->id + " is restarting, wait until the container is running");
        }
        const auto &c = *record->config;
        tty = c.tty;
        to.stdin_ = options.stdin_ && c.open_stdin;
        to.stdout_ = options.stdout_;
        to.stderr_ = options.stderr_;
        to.multiplexed = !tty;
        to.detach_keys = parse_detach_keys(options.detach_keys, tty);
    }
    UniqueFd connection;
    if (options.logs || !options.stream) connection = accept();
    if (options.logs) {
        CancelSource never;
        LogQuery query;
        query.stdout_ = options.stdout_;
        query.stderr_ = options.stderr_;
        logs(name, query, never, [&](const LogRecord &line) {
            if (!tty && !send_all(connection.get(), frame_header(line.stream, line.text.size())))
                return false;
            return send_all(connection.get(), line.text);
        });
    }
    if (!options.stream) return;
    std::shared_ptr<Task> task;
    {
        std::lock_guard lock(record->mutex);
        if (record->removed) throw Error(ErrorClass::kNotFound, "No such container: " + name);
        if (record->state.running) task = need_task(*record);
        if (!connection) connection = accept();
        if (!task) record->pending.push_back({std::move(connection), to});
    }
    if (task) task->attach(std::move(connection), to); // NOLINT(bugprone-use-after-move): else it is pending
    impl_->publish(*record, "attach");
}

void Containers::logs(const std::string &name, const LogQuery &query, const CancelSource &cancel,
                      const std::function<bool(const LogRecord &)> &sink) {
    auto record = impl_->find(name);
    auto end = std::make_shared<UniqueFd>(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!*end) throw Error::from_errno(errno, "read logs of container " + name);
    auto still_going = [&] { return record->state.running || record->state.restarting; };
    auto ended = [&] {
        std::lock_guard lock(record->mutex);
        if (!still_going()) return true;
        // exits take the list; a restarted container needs the entry again
        std::erase_if(record->end_signals, [&](const auto &weak) {
            auto other = weak.lock();
            return !other || other == end;
        });
        record->end_signals.push_back(end);
        return false;
    };
    {
        std::lock_guard lock(record->mutex);
        if (record->config->log_driver == "none") {
            throw Error(ErrorClass::kUnsupported, "configured logging driver does not support reading");
        }
    }
    read_log(impl_->log_path(*record), query, cancel, end->get(), ended, sink);
}

} // namespace gantry
