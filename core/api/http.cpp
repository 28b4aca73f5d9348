// Beast is used for what is easy to get wrong, the grammar of the head; framing of bodies is a few lines
// and must stay byte-exact for hijacking, so it is done here on top of MSG_PEEK.
#include "core/api/http.h"
#include "core/api/dialect.h"

#include <gantry/error.hpp>

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/json.hpp>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <fmt/format.h>
#include <memory>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

namespace http = boost::beast::http;

namespace gantry::api {

namespace {

constexpr size_t kPeek = 8192;
constexpr size_t kMaxDrain = 1u << 20;

std::string reason_of(int status) {
    switch (status) {
    case 101: return "UPGRADED"; // Docker's word; clients only look at the number
    case 304: return "Not Modified";
    default: return std::string(http::obsolete_reason(static_cast<http::status>(status)));
    }
}

std::string http_date() {
    char text[64];
    time_t now = time(nullptr);
    tm parts{};
    gmtime_r(&now, &parts);
    strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &parts);
    return text;
}

int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

int64_t monotonic_ms() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return int64_t(now.tv_sec) * 1000 + now.tv_nsec / 1'000'000;
}

std::string lower(std::string_view text) {
    std::string out(text);
    for (char &c : out)
        if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
    return out;
}

} // namespace

std::string percent_decode(std::string_view text, bool plus_is_space) {
    std::string out;
    out.reserve(text.size());
    for (size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '%' && i + 2 < text.size() && hex_digit(text[i + 1]) >= 0 &&
            hex_digit(text[i + 2]) >= 0) {
            out += char(hex_digit(text[i + 1]) * 16 + hex_digit(text[i + 2]));
            i += 2;
        } else {
            out += plus_is_space && text[i] == '+' ? ' ' : text[i];
        }
    }
    return out;
}

Query parse_query(std::string_view text) {
    Query query;
    size_t count = 0;
    while (!text.empty() && ++count <= 4096) {
        size_t end = std::min(text.find('&'), text.size());
        std::string_view item = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        if (item.empty()) continue;
        size_t equals = item.find('=');
        std::string key = percent_decode(item.substr(0, equals), true);
        query[key].push_back(equals == item.npos ? "" : percent_decode(item.substr(equals + 1), true));
    }
    return query;
}

const std::string &Request::arg(const std::string &name) const {
    static const std::string none;
    auto found = query.find(name);
    return found == query.end() || found->second.empty() ? none : found->second.back();
}

bool Request::flag(const std::string &name, bool fallback) const {
    return has(name) ? parse_bool(arg(name)) : fallback;
}

const std::string &Request::header(const std::string &lower_name) const {
    static const std::string none;
    auto found = headers.find(lower_name);
    return found == headers.end() ? none : found->second;
}

bool Request::wants_upgrade() const {
    return lower(header("connection")).find("upgrade") != std::string::npos && !header("upgrade").empty();
}

// ---- connection ----

Connection::Connection(UniqueFd fd, const HttpLimits &limits, const CancelSource *stop)
    : fd_(std::move(fd)), limits_(limits), stop_(stop) {}

Connection::Ready Connection::wait_readable(int timeout_ms, bool heed_stop) {
    pollfd fds[2] = {{fd_.get(), POLLIN, 0}, {heed_stop && stop_ ? stop_->fd() : -1, POLLIN, 0}};
    int n;
    do
        n = poll(fds, 2, timeout_ms);
    while (n < 0 && errno == EINTR);
    if (n == 0) return Ready::kTimeout;
    if (fds[1].revents) return Ready::kStop;
    return Ready::kData;
}

size_t Connection::receive(void *data, size_t size) {
    ssize_t n;
    do
        n = recv(fd_.get(), data, size, 0);
    while (n < 0 && errno == EINTR);
    return n > 0 ? size_t(n) : 0;
}

bool Connection::read_until(std::string_view delimiter, size_t limit, int timeout_ms, std::string &out,
                            int too_long) {
    out.clear();
    const int64_t deadline = monotonic_ms() + timeout_ms;
    char buffer[kPeek];
    while (true) {
        const int64_t left = deadline - monotonic_ms();
        if (left <= 0 || wait_readable(int(left), false) != Ready::kData)
            throw HttpError{408, "request timed out: the client sends too slowly"};
        ssize_t n;
        do
            n = recv(fd_.get(), buffer, std::min(sizeof buffer, limit + 1 - out.size()), MSG_PEEK);
        while (n < 0 && errno == EINTR);
        if (n <= 0) {
            if (out.empty()) return false;
            throw HttpError{400, "malformed request: it ends in the middle"};
        }
        // The delimiter may straddle two reads: search from its length before the new bytes.
        const size_t before = out.size();
        out.append(buffer, size_t(n));
        const size_t found = out.find(delimiter, before > delimiter.size() ? before - delimiter.size() : 0);
        if (found != out.npos) out.resize(found + delimiter.size());
        for (size_t take = out.size() - before; take > 0;) {
            size_t got = receive(buffer, take);
            if (got == 0) throw HttpError{400, "malformed request: it ends in the middle"};
            take -= got;
        }
        if (found != out.npos) return true;
        if (out.size() >= limit)
            throw HttpError{too_long, too_long == 431 ? "request header fields too large"
                                                      : "malformed request: bad chunk"};
    }
}

int Connection::body_patience(const Request &request) const {
    if (request.deadline_ == 0) return limits_.body_timeout_ms;
    const int64_t left = request.deadline_ - monotonic_ms();
    return int(std::clamp<int64_t>(left, 0, limits_.body_timeout_ms));
}

bool Connection::next(Request &request) {
    request = Request();
    if (wait_readable(limits_.idle_timeout_ms, true) != Ready::kData) return false;
    std::string head;
    if (!read_until("\r\n\r\n", limits_.header_bytes, limits_.header_timeout_ms, head)) return false;

    http::request_parser<http::empty_body> parser;
    parser.header_limit(uint32_t(limits_.header_bytes + 1));
    parser.body_limit(boost::none);
    // A head without body must not make the parser want one: only the head is given to it.
    boost::beast::error_code error;
    parser.eager(false);
    parser.put(boost::asio::buffer(head), error);
    if (error == http::error::header_limit) throw HttpError{431, "request header fields too large"};
    if (error || !parser.is_header_done())
        throw HttpError{400, "malformed request: " + (error ? error.message() : "incomplete head")};
    const auto &message = parser.get();
    request.connection_ = this;
    request.method = std::string(message.method_string());
    request.target = std::string(message.target());
    request.http10 = message.version() < 11;
    request.keep_alive = message.keep_alive();
    for (const auto &field : message) {
        std::string &value = request.headers[lower(field.name_string())];
        if (!value.empty()) value += ", ";
        value += std::string(field.value());
    }
    std::string_view target = request.target;
    if (target.substr(0, 7) == "http://") { // absolute form
        size_t slash = target.find('/', 7);
        target = slash == target.npos ? "/" : target.substr(slash);
    }
    if (target.empty() || target[0] != '/') throw HttpError{400, "malformed request: the target is no path"};
    size_t question = target.find('?');
    request.path = std::string(target.substr(0, question));
    if (question != target.npos) request.query = parse_query(target.substr(question + 1));

    if (parser.chunked()) {
        request.chunked_ = true;
        request.body_ended_ = false;
    } else if (auto length = parser.content_length(); length && *length > 0) {
        request.left_ = *length;
        request.body_ended_ = false;
    }
    request.expect_continue_ = lower(request.header("expect")) == "100-continue";
    return true;
}

size_t Request::read_body(void *data, size_t size) {
    if (body_ended_ || size == 0) return 0;
    Connection &c = *connection_;
    if (expect_continue_) {
        expect_continue_ = false;
        c.send_all("HTTP/1.1 100 Continue\r\n\r\n", c.limits_.send_timeout_ms);
    }
    if (chunked_ && left_ == 0) {
        std::string line;
        if (!first_chunk_ && (!c.read_until("\r\n", 2, c.body_patience(*this), line, 400) || line != "\r\n"))
            throw HttpError{400, "malformed request: bad chunk end"};
        first_chunk_ = false;
        if (!c.read_until("\r\n", 1024, c.body_patience(*this), line, 400))
            throw HttpError{400, "malformed request: the body ends early"};
        size_t digits = 0;
        for (; digits < line.size() && hex_digit(line[digits]) >= 0; ++digits) {
            if (digits == 15) throw HttpError{400, "malformed request: chunk too large"};
            left_ = left_ * 16 + uint64_t(hex_digit(line[digits]));
        }
        if (digits == 0 || (line[digits] != '\r' && line[digits] != ';' && line[digits] != ' '))
            throw HttpError{400, "malformed request: bad chunk size"};
        if (left_ == 0) { // last chunk: trailers are read and ignored
            size_t total = 0;
            do {
                if (!c.read_until("\r\n", 8192, c.body_patience(*this), line))
                    throw HttpError{400, "malformed request: the body ends early"};
                total += line.size();
            } while (line != "\r\n" && total < c.limits_.header_bytes);
            if (line != "\r\n") throw HttpError{431, "request trailers too large"};
            body_ended_ = true;
            return 0;
        }
    }
    if (c.wait_readable(c.body_patience(*this), false) != Connection::Ready::kData)
        throw HttpError{408, "request timed out: no more of the body arrived"};
    size_t got = c.receive(data, size_t(std::min<uint64_t>(size, left_)));
    if (got == 0) throw HttpError{400, "malformed request: the body ends early"};
    left_ -= got;
    if (!chunked_ && left_ == 0) body_ended_ = true;
    return got;
}

std::string Request::body_text(size_t limit) {
    if (!chunked_ && left_ > limit)
        throw HttpError{413, fmt::format("request body too large: the limit is {} bytes", limit)};
    // A body that drips in byte by byte must not hold a thread for hours.
    if (!body_ended_) deadline_ = monotonic_ms() + connection_->limits().json_timeout_ms;
    std::string out;
    char buffer[16384];
    while (size_t n = read_body(buffer, sizeof buffer)) {
        if (out.size() + n > limit)
            throw HttpError{413, fmt::format("request body too large: the limit is {} bytes", limit)};
        out.append(buffer, n);
    }
    return out;
}

std::string Request::body_json() {
    return body_text(connection_ ? connection_->limits().json_bytes : 8u << 20);
}

bool Connection::finish(Request &request) {
    if (!request.keep_alive || request.expect_continue_) return request.keep_alive && request.body_ended_;
    char buffer[16384];
    for (size_t total = 0; !request.body_ended_;) {
        total += request.read_body(buffer, sizeof buffer);
        if (total > kMaxDrain) return false;
    }
    return true;
}

size_t Connection::send_some(std::string_view bytes) {
    ssize_t n;
    do
        n = send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n >= 0) return size_t(n);
    if (errno == EAGAIN || errno == EWOULDBLOCK) return 0;
    throw Error(ErrorClass::kUnavailable, "answer request: the client has gone", {}, errno);
}

void Connection::send_all(std::string_view bytes, int timeout_ms) {
    while (true) {
        bytes.remove_prefix(send_some(bytes));
        if (bytes.empty()) return;
        // A stopping server waits for clients that read, not for those that sleep.
        pollfd fds[2] = {{fd_.get(), POLLOUT, 0}, {stop_ ? stop_->fd() : -1, POLLIN, 0}};
        int n;
        do
            n = poll(fds, 2, timeout_ms);
        while (n < 0 && errno == EINTR);
        if (n > 0 && !fds[0].revents) n = poll(fds, 1, std::min(timeout_ms, limits_.stop_timeout_ms));
        if (n == 0) {
            // The request is left in the middle: nothing may follow it on this connection.
            shutdown(fd_.get(), SHUT_RDWR);
            throw Error(ErrorClass::kUnavailable, "answer request: the client does not read");
        }
    }
}

// ---- response ----

void Response::header(std::string name, std::string value) {
    headers_.emplace_back(std::move(name), std::move(value));
}

std::string Response::head(int status, std::string_view content_type) const {
    std::string out = fmt::format("HTTP/1.1 {} {}\r\n", status, reason_of(status));
    for (const auto &[name, value] : common)
        out += fmt::format("{}: {}\r\n", name, value);
    for (const auto &[name, value] : headers_)
        out += fmt::format("{}: {}\r\n", name, value);
    if (!content_type.empty()) out += fmt::format("Content-Type: {}\r\n", content_type);
    return out;
}

void Response::send(int status, std::string_view body, std::string_view content_type) {
    started_ = ended_ = true;
    status_ = status;
    const bool bodyless = status == 204 || status == 304 || status < 200;
    std::string out = head(status, bodyless ? std::string_view() : content_type);
    out += "Date: " + http_date() + "\r\n";
    if (!bodyless) out += fmt::format("Content-Length: {}\r\n", body.size());
    if (!request_.keep_alive)
        out += "Connection: close\r\n";
    else if (request_.http10)
        out += "Connection: keep-alive\r\n";
    out += "\r\n";
    if (!bodyless && request_.method != "HEAD") out += body;
    connection_.send_all(out, connection_.limits().send_timeout_ms);
}

void Response::error(int status, const std::string &message) {
    boost::json::object body{{"message", message}};
    json(status, boost::json::serialize(body) + "\n");
}

void Response::begin(int status, std::string_view content_type) {
    started_ = streaming_ = true;
    status_ = status;
    std::string out = head(status, content_type);
    out += "Date: " + http_date() + "\r\n";
    out += request_.http10 ? "Connection: close\r\n" : "Transfer-Encoding: chunked\r\n";
    if (!request_.http10 && !request_.keep_alive) out += "Connection: close\r\n";
    connection_.send_all(out + "\r\n", connection_.limits().send_timeout_ms);
}

std::string Response::framed(std::string_view bytes) const {
    if (request_.http10) return std::string(bytes);
    std::string out = fmt::format("{:x}\r\n", bytes.size());
    out += bytes;
    out += "\r\n";
    return out;
}

void Response::write(std::string_view bytes) {
    if (bytes.empty() || request_.method == "HEAD") return;
    connection_.send_all(std::exchange(backlog_, {}) + framed(bytes), connection_.limits().stream_timeout_ms);
}

void Response::offer(std::string_view bytes) {
    if (bytes.empty() || request_.method == "HEAD") return;
    backlog_ += framed(bytes);
    backlog_.erase(0, connection_.send_some(backlog_));
}

void Response::end() {
    if (ended_ || !streaming_) return;
    ended_ = true;
    std::string last = std::exchange(backlog_, {});
    if (!request_.http10 && request_.method != "HEAD") last += "0\r\n\r\n";
    connection_.send_all(last, connection_.limits().send_timeout_ms);
}

UniqueFd Response::hijack(std::string_view content_type) {
    started_ = ended_ = true;
    const bool upgrade = request_.wants_upgrade();
    status_ = upgrade ? 101 : 200;
    std::string out =
        fmt::format("HTTP/1.1 {}\r\nContent-Type: {}\r\n", upgrade ? "101 UPGRADED" : "200 OK", content_type);
    if (upgrade) out += "Connection: Upgrade\r\nUpgrade: tcp\r\n";
    connection_.send_all(out + "\r\n", connection_.limits().send_timeout_ms);
    return connection_.release();
}

// ---- peers that go away ----

namespace {
/// 1: wake, 0: time-out, -1: gone or stopping.
int poll_three(int client, int stop, int wake, int timeout_ms) {
    pollfd fds[3] = {{client, 0, 0}, {stop, POLLIN, 0}, {wake, POLLIN, 0}};
    const int64_t deadline = timeout_ms < 0 ? -1 : monotonic_ms() + timeout_ms;
    while (true) {
        int n = poll(fds, 3, deadline < 0 ? -1 : int(std::max<int64_t>(0, deadline - monotonic_ms())));
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) return 0;
        if (fds[2].revents) return 1;
        return -1;
    }
}
} // namespace

bool wait_for(const Connection &connection, int wake_fd, int timeout_ms, bool &timed_out) {
    int result =
        poll_three(connection.fd(), connection.stop() ? connection.stop()->fd() : -1, wake_fd, timeout_ms);
    timed_out = result == 0;
    return result >= 0;
}

struct HangupWatch::Shared {
    int client, stop;
    UniqueFd done;
    CancelSource *cancel;
    pthread_t thread;
};

HangupWatch::HangupWatch(const Connection &connection, CancelSource &cancel)
    : shared_(new Shared{connection.fd(),
                         connection.stop() ? connection.stop()->fd() : -1,
                         UniqueFd(eventfd(0, EFD_CLOEXEC)),
                         &cancel,
                         {}}) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 64u << 10);
    auto body = [](void *raw) -> void * {
        auto *shared = static_cast<Shared *>(raw);
        if (poll_three(shared->client, shared->stop, shared->done.get(), -1) < 0) shared->cancel->cancel();
        return nullptr;
    };
    int error = pthread_create(&shared_->thread, &attributes, body, shared_);
    pthread_attr_destroy(&attributes);
    if (error) {
        delete shared_;
        throw Error::from_errno(error, "watch client connection");
    }
}

HangupWatch::~HangupWatch() {
    eventfd_write(shared_->done.get(), 1);
    pthread_join(shared_->thread, nullptr);
    delete shared_;
}

} // namespace gantry::api
