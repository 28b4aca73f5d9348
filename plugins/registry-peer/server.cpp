#include "server.h"

#include "address.h"

#include <gantry/call.hpp>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <vector>

namespace gantry::peer {
namespace {

constexpr size_t kPiece = 128 << 10;
constexpr int64_t kSecond = 1'000'000'000, kWarningGap = 60 * kSecond;

} // namespace

Server::Server(Settings settings, const TlsKey &key, OpenBlob open, LogLine log, Count count)
    : settings_(std::move(settings)), key_(key), open_(std::move(open)), log_(std::move(log)),
      count_(std::move(count)), socket_(listen_at(settings_.listen)),
      stop_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (!stop_) throw Error::from_errno(errno, "listen for peers at " + settings_.listen);
    listener_ = std::thread([this] { listen(); });
}

Server::~Server() {
    const uint64_t one = 1;
    while (::write(stop_.get(), &one, sizeof one) < 0 && errno == EINTR) {
    }
    listener_.join();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return connections_ == 0; });
}

std::string Server::address() const {
    Address at;
    at.size = sizeof at.raw;
    if (::getsockname(socket_.get(), reinterpret_cast<sockaddr *>(&at.raw), &at.size) != 0)
        return settings_.listen;
    return at.text();
}

Patience Server::patience(int64_t ns) const { return {Call::now_ns() + ns, stop_.get()}; }

void Server::listen() {
    for (;;) {
        pollfd p[] = {{socket_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
        if (::poll(p, 2, -1) < 0) continue;
        if (p[1].revents) return;
        Address from;
        from.size = sizeof from.raw;
        UniqueFd socket(::accept4(socket_.get(), reinterpret_cast<sockaddr *>(&from.raw), &from.size,
                                  SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (!socket) {
            // Out of descriptors, most likely: the connection waits in the kernel meanwhile.
            pollfd stop{stop_.get(), POLLIN, 0};
            if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
                (void)::poll(&stop, 1, 100);
            continue;
        }
        {
            const std::lock_guard lock(mutex_);
            if (connections_ >= settings_.max_connections) {
                count_("turned_away", 1);
                continue; // closed: the peer tells this from a dead one and asks elsewhere
            }
            ++connections_;
        }
        try {
            std::thread([this, socket = std::move(socket), text = from.text()]() mutable {
                serve(std::move(socket), text);
                const std::lock_guard lock(mutex_); // held while it wakes ~Server, which destroys both
                --connections_;
                changed_.notify_all();
            }).detach();
        } catch (const std::exception &) { // no thread to be had
            const std::lock_guard lock(mutex_);
            --connections_;
        }
    }
}

void Server::serve(UniqueFd socket, const std::string &from) {
    try {
        const int on = 1;
        (void)::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        Talk stream(
            TlsStream(key_, std::move(socket), TlsStream::Role::kServer, patience(settings_.handshake_ns)));
        talk(stream);
    } catch (const Error &error) {
        if (error.error_class() != ErrorClass::kPermissionDenied) return; // cut, silent or stopped: it may be
        count_("strangers", 1);
        const std::lock_guard lock(mutex_);
        const int64_t now = Call::now_ns();
        if (warned_ns_ && now - warned_ns_ < kWarningGap) return;
        warned_ns_ = now;
        log_(GANTRY_LOG_WARN, "refused a connection from " + from + ", which does not know the secret (" +
                                  error.message() + "); more of these within a minute are not told");
    } catch (const std::exception &) { // out of memory: this connection's loss
    }
}

void Server::talk(Talk &talk) {
    for (;;) {
        const std::string line = talk.line(patience(settings_.idle_ns));
        if (line.empty()) return;
        Question question;
        try {
            question = parse_question(line);
        } catch (const Error &) {
            const std::string bad = text_of(Answer{kBad, 0, 0, 0});
            talk.write(bad.data(), bad.size(), patience(settings_.stall_ns));
            return;
        }
        give(talk, question);
    }
}

void Server::give(Talk &talk, const Question &q) {
    const auto say = [&](const Answer &answer) {
        const std::string line = text_of(answer);
        talk.write(line.data(), line.size(), patience(settings_.stall_ns));
    };
    if (q.ping) return say({kPong, 0, 0, 0});
    UniqueFd blob;
    uint64_t size = 0;
    try {
        blob = open_(q.digest, size);
    } catch (const Error &error) {
        return say({error.error_class() == ErrorClass::kNotFound ? kMissing : kFailed, 0, 0, 0});
    }
    if (q.offset > size) return say({kNoRange, size, 0, 0});
    const uint64_t length = q.length ? std::min(q.length, size - q.offset) : size - q.offset;
    say({kOk, size, q.offset, length});
    count_("served_blobs", 1);
    std::vector<char> piece(std::min<uint64_t>(kPiece, std::max<uint64_t>(length, 1)));
    for (uint64_t sent = 0; sent < length;) {
        const ssize_t n = ::pread(blob.get(), piece.data(), std::min<uint64_t>(piece.size(), length - sent),
                                  static_cast<off_t>(q.offset + sent));
        // Too late for another answer: what is promised and does not come ends the connection.
        if (n <= 0) throw Error(ErrorClass::kUnavailable, "read blob " + q.digest + ": it is cut");
        pace(static_cast<uint64_t>(n));
        talk.write(piece.data(), static_cast<size_t>(n), patience(settings_.stall_ns));
        sent += static_cast<uint64_t>(n);
        count_("served_bytes", n);
    }
}

/// Waits for the turn of these bytes among those of all connections.
void Server::pace(uint64_t bytes) {
    if (settings_.bandwidth == 0) return;
    int64_t turn_ns = 0;
    {
        const std::lock_guard lock(mutex_);
        const int64_t now = Call::now_ns();
        turn_ns = std::max(next_byte_ns_, now);
        next_byte_ns_ = turn_ns + static_cast<int64_t>(static_cast<double>(bytes) * 1e9 /
                                                       static_cast<double>(settings_.bandwidth));
    }
    for (;;) {
        const int64_t left = turn_ns - Call::now_ns();
        if (left <= 0) return;
        pollfd stop{stop_.get(), POLLIN, 0};
        const timespec wait{left / kSecond, left % kSecond};
        if (::ppoll(&stop, 1, &wait, nullptr) > 0) throw Error(ErrorClass::kCancelled, "send blob: stopped");
    }
}

} // namespace gantry::peer
