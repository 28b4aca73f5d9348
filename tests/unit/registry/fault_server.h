// An HTTP server on loopback that fails on demand: each request is answered by a function of the test, which
// may also cut the connection in the middle of a body. One thread per connection.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdexcept>
#include <sys/socket.h>
#include <unistd.h>

struct FaultRequest {
    std::string method, path;
    std::map<std::string, std::string> headers; // names in lower case
    std::string body = {};
    std::string header(const std::string &name) const {
        const auto found = headers.find(name);
        return found == headers.end() ? "" : found->second;
    }
};

struct FaultReply {
    int status = 200;
    std::string body;
    std::map<std::string, std::string> headers;
    size_t cut_after = std::string::npos; // bytes of the body, then the connection is closed
    bool stall = false;                   // after cut_after: stay silent instead of closing
    size_t drip = 0;                      // so many bytes of the body every 10 ms
};

class FaultServer {
  public:
    using Handler = std::function<FaultReply(const FaultRequest &)>;
    /// How many bytes of a request's body are taken before the connection is cut; npos: all.
    using Cutter = std::function<size_t(const FaultRequest &)>;
    explicit FaultServer(Handler handler, Cutter cutter = {})
        : handler_(std::move(handler)), cutter_(std::move(cutter)) {
        listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address;
        if (::bind(listener_, reinterpret_cast<sockaddr *>(&address), size) != 0 ||
            ::listen(listener_, 16) != 0 ||
            ::getsockname(listener_, reinterpret_cast<sockaddr *>(&address), &size) != 0)
            throw std::runtime_error("listen on loopback");
        port_ = ntohs(address.sin_port);
        accepter_ = std::thread([this] { accept_all(); });
    }
    ~FaultServer() {
        stopping_ = true;
        ::shutdown(listener_, SHUT_RDWR);
        accepter_.join();
        {
            std::lock_guard lock(mutex_);
            for (const int fd : open_)
                ::shutdown(fd, SHUT_RDWR);
        }
        for (auto &thread : threads_)
            thread.join();
        ::close(listener_);
    }
    std::string host() const { return "127.0.0.1:" + std::to_string(port_); }
    std::string url() const { return "http://" + host(); }
    std::vector<FaultRequest> seen() const {
        std::lock_guard lock(mutex_);
        return seen_;
    }

  private:
    void accept_all() {
        for (;;) {
            const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
            if (fd < 0 || stopping_) {
                if (fd >= 0) ::close(fd);
                return;
            }
            std::lock_guard lock(mutex_);
            open_.push_back(fd);
            threads_.emplace_back([this, fd] {
                serve(fd);
                std::lock_guard inner(mutex_);
                std::erase(open_, fd);
                ::close(fd);
            });
        }
    }
    void serve(int fd) {
        std::string buffer;
        for (;;) {
            size_t end;
            while ((end = buffer.find("\r\n\r\n")) == std::string::npos) {
                char chunk[4096];
                const ssize_t n = ::recv(fd, chunk, sizeof chunk, 0);
                if (n <= 0) return;
                buffer.append(chunk, static_cast<size_t>(n));
                if (buffer[0] < 'A' || buffer[0] > 'Z') { // a TLS hello
                    send(fd, "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
                    return;
                }
            }
            FaultRequest request;
            const std::string head = buffer.substr(0, end + 2);
            buffer.erase(0, end + 4);
            size_t from = 0;
            for (bool first = true; from < head.size(); first = false) {
                const size_t stop = head.find("\r\n", from);
                const std::string line = head.substr(from, stop - from);
                from = stop + 2;
                if (first) {
                    const size_t a = line.find(' '), b = line.rfind(' ');
                    request.method = line.substr(0, a);
                    request.path = line.substr(a + 1, b - a - 1);
                } else if (const size_t colon = line.find(": "); colon != std::string::npos) {
                    std::string name = line.substr(0, colon);
                    for (char &c : name)
                        c = static_cast<char>(::tolower(c));
                    request.headers[name] = line.substr(colon + 2);
                }
            }
            const std::string announced = request.header("content-length");
            const size_t length = announced.empty() ? 0 : std::stoul(announced);
            const size_t wanted = cutter_ ? std::min(length, cutter_(request)) : length;
            while (buffer.size() < wanted) {
                char chunk[65536];
                const ssize_t n = ::recv(fd, chunk, sizeof chunk, 0);
                if (n <= 0) return;
                buffer.append(chunk, static_cast<size_t>(n));
            }
            request.body = buffer.substr(0, wanted);
            buffer.erase(0, wanted);
            {
                std::lock_guard lock(mutex_);
                seen_.push_back(request);
            }
            const FaultReply reply = handler_(request);
            if (wanted < length) { // a reset, as of a router that gave up
                const linger at_once{1, 0};
                ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
                return;
            }
            std::string out = "HTTP/1.1 " + std::to_string(reply.status) +
                              " X\r\nContent-Length: " + std::to_string(reply.body.size()) + "\r\n";
            for (const auto &[name, value] : reply.headers)
                out += name + ": " + value + "\r\n";
            const std::string body = reply.body.substr(0, reply.cut_after);
            if (!send(fd, out + "\r\n" + (reply.drip ? "" : body))) return;
            for (size_t at = 0; reply.drip && at < body.size(); at += reply.drip) {
                if (!send(fd, body.substr(at, reply.drip))) return;
                std::this_thread::sleep_for(std::chrono::milliseconds(10));
            }
            if (reply.stall) {
                char byte;
                while (::recv(fd, &byte, 1, 0) > 0) {
                }
                return;
            }
            if (reply.cut_after < reply.body.size()) return;
        }
    }
    static bool send(int fd, const std::string &text) {
        for (size_t at = 0; at < text.size();) {
            const ssize_t n = ::send(fd, text.data() + at, text.size() - at, MSG_NOSIGNAL);
            if (n <= 0) return false;
            at += static_cast<size_t>(n);
        }
        return true;
    }

    Handler handler_;
    Cutter cutter_;
    int listener_ = -1;
    uint16_t port_ = 0;
    std::atomic<bool> stopping_{false};
    std::thread accepter_;
    mutable std::mutex mutex_;
    std::vector<int> open_;
    std::vector<std::thread> threads_;
    std::vector<FaultRequest> seen_;
};
