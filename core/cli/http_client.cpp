// Strict where laxness would be dangerous (lengths, chunk sizes, head size), lenient in nothing: the only
// peer is an Engine API daemon, and a strange answer means that something else listens on the socket.
#include "core/cli/http_client.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <charconv>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace gantry::cli {
namespace {

[[noreturn]] void fail_malformed(const std::string &cause) {
    throw Error(ErrorClass::kDataLoss, "read answer of the daemon: " + cause);
}

std::string lower(std::string_view text) {
    std::string result(text);
    for (char &c : result)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return result;
}

std::string_view trim(std::string_view text) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t'))
        text.remove_prefix(1);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t'))
        text.remove_suffix(1);
    return text;
}

// MSG_NOSIGNAL: a daemon that goes away is an error message, not a dead client.
void send_all(int fd, std::string_view bytes) {
    while (!bytes.empty()) {
        ssize_t sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN) {
                pollfd wait{fd, POLLOUT, 0};
                ::poll(&wait, 1, -1);
                continue;
            }
            throw Error::from_errno(errno, "send request to the daemon");
        }
        bytes.remove_prefix(static_cast<size_t>(sent));
    }
}

} // namespace

std::string_view HttpHead::header(std::string_view lower_name) const {
    for (const auto &[name, value] : headers)
        if (name == lower_name) return value;
    return {};
}

std::string HttpConnection::format_head(const HttpRequest &request, bool chunked) const {
    std::string head = request.method + " " + request.target +
                       " HTTP/1.1\r\nHost: gantry\r\n"
                       "User-Agent: gantry/" GANTRY_VERSION "\r\n";
    for (const auto &[name, value] : request.headers)
        head += name + ": " + value + "\r\n";
    if (request.upgrade) head += "Connection: Upgrade\r\nUpgrade: tcp\r\n";
    if (chunked)
        head += "Transfer-Encoding: chunked\r\n";
    else if (request.has_body || request.method == "POST" || request.method == "PUT")
        head += "Content-Length: " + std::to_string(request.body.size()) + "\r\n";
    return head + "\r\n";
}

void HttpConnection::send(const HttpRequest &request) {
    send_all(fd_.get(), format_head(request, false) + request.body);
}

void HttpConnection::send_stream(const HttpRequest &request, int source) {
    send_all(fd_.get(), format_head(request, true));
    std::string chunk(64u << 10, '\0');
    for (;;) {
        ssize_t count = ::read(source, chunk.data(), chunk.size());
        if (count < 0) {
            if (errno == EINTR) continue;
            throw Error::from_errno(errno, "read input to send");
        }
        char size_line[20];
        int length = snprintf(size_line, sizeof size_line, "%zx\r\n", static_cast<size_t>(count));
        std::string frame(size_line, static_cast<size_t>(length));
        frame.append(chunk.data(), static_cast<size_t>(count));
        frame += "\r\n";
        try {
            send_all(fd_.get(), frame);
        } catch (const Error &error) {
            // A daemon that refuses the upload answers and closes before it has read everything: its
            // answer is the better message.
            if (error.errno_value() == EPIPE || error.errno_value() == ECONNRESET) return;
            throw;
        }
        if (count == 0) return;
    }
}

bool HttpConnection::fill() {
    if (position_ > 0) {
        buffer_.erase(0, position_);
        position_ = 0;
    }
    size_t old_size = buffer_.size();
    buffer_.resize(old_size + (16u << 10));
    for (;;) {
        ssize_t count = ::recv(fd_.get(), buffer_.data() + old_size, buffer_.size() - old_size, 0);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0 && errno == EAGAIN) {
            pollfd wait{fd_.get(), POLLIN, 0};
            ::poll(&wait, 1, -1);
            continue;
        }
        int error = errno;
        buffer_.resize(old_size + static_cast<size_t>(std::max<ssize_t>(count, 0)));
        if (count < 0) throw Error::from_errno(error, "read answer of the daemon");
        return count > 0;
    }
}

std::string HttpConnection::read_head_line(size_t &budget) {
    size_t scanned = position_;
    for (;;) {
        size_t end = buffer_.find('\n', scanned);
        size_t length = (end == std::string::npos ? buffer_.size() : end + 1) - position_;
        if (length > budget) fail_malformed("headers are larger than 64 KiB");
        if (end != std::string::npos) {
            budget -= length;
            std::string line = buffer_.substr(position_, length - 1);
            if (!line.empty() && line.back() == '\r') line.pop_back();
            position_ = end + 1;
            return line;
        }
        scanned = buffer_.size() - position_; // fill() moves the data to the front
        if (!fill()) throw Error(ErrorClass::kUnavailable, "read answer of the daemon: connection closed");
    }
}

HttpHead HttpConnection::read_head(bool head_request) {
    for (;;) {
        size_t budget = kMaxHeadBytes;
        HttpHead head;
        std::string line = read_head_line(budget);
        if (line.size() < 12 || line.compare(0, 7, "HTTP/1.") != 0 || line[8] != ' ')
            fail_malformed("this is not HTTP/1.1; does something else listen on the socket?");
        auto [end, code] = std::from_chars(line.data() + 9, line.data() + 12, head.status);
        if (code != std::errc() || end != line.data() + 12 || head.status < 100)
            fail_malformed("bad status line");
        keep_alive_ = line[7] == '1';
        while (!(line = read_head_line(budget)).empty()) {
            size_t colon = line.find(':');
            if (colon == 0 || colon == std::string::npos) fail_malformed("bad header line");
            head.headers.emplace_back(lower(std::string_view(line).substr(0, colon)),
                                      trim(std::string_view(line).substr(colon + 1)));
        }
        if (head.status == 100) continue;

        std::string connection = lower(head.header("connection"));
        if (connection == "close") keep_alive_ = false;
        if (connection == "keep-alive") keep_alive_ = true;
        std::string encoding = lower(head.header("transfer-encoding"));
        std::string_view length_text = head.header("content-length");
        first_chunk_ = true;
        remaining_ = 0;
        if (head_request || head.status == 204 || head.status == 304 || head.status < 200) {
            body_ = Body::kNone;
        } else if (!encoding.empty()) {
            if (encoding != "chunked") fail_malformed("unknown transfer encoding " + encoding);
            body_ = Body::kChunked;
        } else if (!length_text.empty()) {
            auto [stop, error] =
                std::from_chars(length_text.data(), length_text.data() + length_text.size(), remaining_);
            if (error != std::errc() || stop != length_text.data() + length_text.size())
                fail_malformed("bad Content-Length");
            body_ = remaining_ ? Body::kLength : Body::kNone;
        } else {
            body_ = Body::kUntilClose;
            keep_alive_ = false;
        }
        return head;
    }
}

size_t HttpConnection::read_raw(char *buffer, size_t size) {
    if (!buffered() && !fill()) return 0;
    size_t count = std::min(size, buffer_.size() - position_);
    memcpy(buffer, buffer_.data() + position_, count);
    position_ += count;
    return count;
}

size_t HttpConnection::read_some(char *buffer, size_t size) {
    if (body_ == Body::kNone || size == 0) return 0;
    if (body_ == Body::kUntilClose) {
        size_t count = read_raw(buffer, size);
        if (count == 0) body_ = Body::kNone;
        return count;
    }
    if (body_ == Body::kChunked && remaining_ == 0) {
        size_t budget = 4096;
        if (!first_chunk_ && !read_head_line(budget).empty()) fail_malformed("chunk without its end");
        first_chunk_ = false;
        std::string line = read_head_line(budget);
        std::string_view digits = trim(std::string_view(line).substr(0, line.find(';')));
        auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), remaining_, 16);
        if (digits.empty() || error != std::errc() || stop != digits.data() + digits.size())
            fail_malformed("bad chunk size");
        if (remaining_ == 0) {
            while (!read_head_line(budget).empty()) {
            } // trailers
            body_ = Body::kNone;
            return 0;
        }
    }
    size_t count = read_raw(buffer, static_cast<size_t>(std::min<uint64_t>(size, remaining_)));
    if (count == 0) throw Error(ErrorClass::kUnavailable, "read answer of the daemon: connection closed");
    remaining_ -= count;
    if (body_ == Body::kLength && remaining_ == 0) body_ = Body::kNone;
    return count;
}

std::string HttpConnection::read_body(size_t limit) {
    std::string body;
    char buffer[16u << 10];
    while (size_t count = read_some(buffer, sizeof buffer)) {
        if (body.size() + count > limit) fail_malformed("body is too large");
        body.append(buffer, count);
    }
    return body;
}

bool HttpConnection::read_line(std::string &line) {
    for (;;) {
        size_t end = line_rest_.find('\n', line_scanned_);
        if (end != std::string::npos) {
            line = line_rest_.substr(0, end);
            line_rest_.erase(0, end + 1);
            line_scanned_ = 0;
            if (!line.empty() && line.back() == '\r') line.pop_back();
            return true;
        }
        line_scanned_ = line_rest_.size();
        if (line_rest_.size() > kMaxLineBytes) fail_malformed("line of the stream is too long");
        char buffer[16u << 10];
        size_t count = read_some(buffer, sizeof buffer);
        if (count == 0) {
            line = std::exchange(line_rest_, {});
            line_scanned_ = 0;
            return !line.empty();
        }
        line_rest_.append(buffer, count);
    }
}

bool HttpConnection::reusable() const {
    if (!fd_ || !keep_alive_ || body_ != Body::kNone || buffered()) return false;
    // Readable while idle means that the daemon has closed it.
    pollfd idle{fd_.get(), POLLIN, 0};
    return ::poll(&idle, 1, 0) == 0;
}

std::string HttpConnection::take_buffered() {
    std::string rest = buffer_.substr(position_);
    buffer_.clear();
    position_ = 0;
    return rest;
}

std::string url_encode(std::string_view text) {
    static constexpr char kHex[] = "0123456789ABCDEF";
    std::string result;
    for (unsigned char c : text) {
        if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
            c == '_' || c == '.' || c == '~') {
            result += static_cast<char>(c);
        } else {
            result += '%';
            result += kHex[c >> 4];
            result += kHex[c & 15];
        }
    }
    return result;
}

} // namespace gantry::cli
