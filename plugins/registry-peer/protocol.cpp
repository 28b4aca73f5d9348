#include "protocol.h"

#include <algorithm>
#include <charconv>
#include <vector>

namespace gantry::peer {
namespace {

constexpr std::string_view kHead = "GANTRY-PEER/1";
constexpr size_t kLongest = 256;

[[noreturn]] void nonsense() {
    throw Error(ErrorClass::kDataLoss, "read message: it is not of this protocol");
}

std::vector<std::string_view> words_of(std::string_view line) {
    std::vector<std::string_view> out;
    for (size_t at = 0; at <= line.size();) {
        const size_t end = std::min(line.find(' ', at), line.size());
        out.push_back(line.substr(at, end - at));
        at = end + 1;
        if (out.size() > 8) nonsense();
    }
    if (out[0] != kHead) nonsense();
    return out;
}

uint64_t number(std::string_view text) {
    uint64_t out = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), out);
    if (text.empty() || error != std::errc() || end != text.data() + text.size()) nonsense();
    return out;
}

} // namespace

bool is_digest(const std::string &text) {
    const size_t digits = text.starts_with("sha256:") ? 64 : text.starts_with("sha512:") ? 128 : 0;
    return digits && text.size() == 7 + digits &&
           text.find_first_not_of("0123456789abcdef", 7) == std::string::npos;
}

std::string text_of(const Question &q) {
    if (q.ping) return std::string(kHead) + " PING\n";
    return std::string(kHead) + " GET " + q.digest + " " + std::to_string(q.offset) + " " +
           std::to_string(q.length) + "\n";
}
std::string text_of(const Answer &a) {
    return std::string(kHead) + " " + std::to_string(a.status) + " " + std::to_string(a.size) + " " +
           std::to_string(a.offset) + " " + std::to_string(a.length) + "\n";
}

Question parse_question(const std::string &line) {
    const auto words = words_of(line);
    Question out;
    out.ping = words.size() == 2 && words[1] == "PING";
    if (out.ping) return out;
    if (words.size() != 5 || words[1] != "GET") nonsense();
    out.digest = words[2];
    out.offset = number(words[3]);
    out.length = number(words[4]);
    if (!is_digest(out.digest) || out.length > UINT64_MAX - out.offset) nonsense();
    return out;
}

Answer parse_answer(const std::string &line) {
    const auto words = words_of(line);
    if (words.size() != 5 || words[1].size() != 3) nonsense();
    Answer out{static_cast<int>(number(words[1])), number(words[2]), number(words[3]), number(words[4])};
    if (out.offset > out.size || out.length > out.size - out.offset) nonsense();
    return out;
}

std::string Talk::line(const Patience &patience) {
    for (;;) {
        if (const size_t end = ahead_.find('\n'); end != std::string::npos) {
            if (end > kLongest) nonsense();
            std::string out = ahead_.substr(0, end);
            ahead_.erase(0, end + 1);
            if (out.empty()) nonsense();
            return out;
        }
        if (ahead_.size() > kLongest) nonsense();
        char buffer[4096];
        const size_t n = stream_.read(buffer, sizeof buffer, patience);
        if (n == 0 && ahead_.empty()) return {};
        if (n == 0) nonsense();
        ahead_.append(buffer, n);
    }
}

size_t Talk::read(void *buffer, size_t size, const Patience &patience) {
    if (ahead_.empty()) return stream_.read(buffer, size, patience);
    const size_t n = std::min(size, ahead_.size());
    ahead_.copy(static_cast<char *>(buffer), n);
    ahead_.erase(0, n);
    return n;
}

} // namespace gantry::peer
