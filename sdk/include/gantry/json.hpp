// A strict reader of JSON for plugins: what registries say is JSON, and a plugin should not need another
// library for it, whose C++ runtime may not be the plugin's. Untrusted input: depth, size and number of
// values are bounded, anything that is not RFC 8259 is refused with its offset.
#pragma once

#include <gantry/error.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace gantry {

class Json {
  public:
    enum class Type { kNull, kBool, kNumber, kString, kArray, kObject };

    /// Throws Error(kDataLoss) "read <what>: ...".
    static Json parse(std::string_view text, std::string_view what) {
        Reader reader{text, what};
        Json value = reader.value(0);
        reader.blanks();
        if (reader.at != text.size()) reader.fail("something follows the value");
        return value;
    }

    Type type() const noexcept { return type_; }
    /// What is absent or of another type is "", 0, empty; so chains need no checks.
    const std::string &string() const noexcept { return text_; }
    uint64_t size() const noexcept { return number_; } // of a whole number that is not negative
    const std::vector<Json> &items() const noexcept { return items_; }
    const Json &operator[](const std::string &key) const noexcept {
        static const Json kNone;
        const auto it = members_.find(key);
        return it == members_.end() ? kNone : it->second;
    }

  private:
    struct Reader {
        std::string_view text, what;
        size_t at = 0, values = 0;
        static constexpr size_t kMaxBytes = 8 << 20, kMaxValues = 200'000, kMaxDepth = 32;

        [[noreturn]] void fail(const char *why) const {
            throw Error(ErrorClass::kDataLoss,
                        "read " + std::string(what) + ": no JSON at byte " + std::to_string(at) + ": " + why);
        }
        char peek() const { return at < text.size() ? text[at] : '\0'; }
        void blanks() {
            while (at < text.size() && std::string_view(" \t\r\n").find(text[at]) != std::string_view::npos)
                ++at;
        }
        void expect(std::string_view word) {
            if (text.substr(at, word.size()) != word) fail("an unknown word or sign");
            at += word.size();
        }
        Json value(size_t depth) {
            if (text.size() > kMaxBytes) fail("it is too large");
            if (depth > kMaxDepth) fail("it nests too deep");
            if (++values > kMaxValues) fail("it has too many values");
            blanks();
            Json out;
            switch (peek()) {
            case '{': object(out, depth); break;
            case '[': array(out, depth); break;
            case '"':
                out.type_ = Type::kString;
                out.text_ = quoted();
                break;
            case 't':
                expect("true");
                out.type_ = Type::kBool;
                out.number_ = 1;
                break;
            case 'f':
                expect("false");
                out.type_ = Type::kBool;
                break;
            case 'n': expect("null"); break;
            default: number(out);
            }
            return out;
        }
        void object(Json &out, size_t depth) {
            out.type_ = Type::kObject;
            ++at;
            blanks();
            for (bool first = true; first || peek() != '}'; first = false) {
                if (first && peek() == '}') break;
                if (!first) expect(",");
                blanks();
                if (peek() != '"') fail("a key is expected");
                std::string key = quoted();
                blanks();
                expect(":");
                // Two readers that choose differently among equal keys see different documents.
                if (!out.members_.emplace(std::move(key), value(depth + 1)).second) fail("a key repeats");
                blanks();
            }
            ++at;
        }
        void array(Json &out, size_t depth) {
            out.type_ = Type::kArray;
            ++at;
            blanks();
            for (bool first = true; first || peek() != ']'; first = false) {
                if (first && peek() == ']') break;
                if (!first) expect(",");
                out.items_.push_back(value(depth + 1));
                blanks();
            }
            ++at;
        }
        bool digit() const { return peek() >= '0' && peek() <= '9'; }
        void digits() {
            if (!digit()) fail("a digit is expected");
            while (digit())
                ++at;
        }
        void number(Json &out) {
            out.type_ = Type::kNumber;
            const size_t begin = at;
            if (peek() == '-') ++at;
            if (peek() == '0')
                ++at;
            else
                digits();
            const bool whole = text[begin] != '-' && peek() != '.' && peek() != 'e' && peek() != 'E';
            if (whole)
                for (const char c : text.substr(begin, at - begin)) {
                    const uint64_t d = static_cast<uint64_t>(c - '0');
                    if (out.number_ > (UINT64_MAX - d) / 10) fail("the number is too large");
                    out.number_ = out.number_ * 10 + d;
                }
            if (peek() == '.') {
                ++at;
                digits();
            }
            if (peek() == 'e' || peek() == 'E') {
                ++at;
                if (peek() == '+' || peek() == '-') ++at;
                digits();
            }
        }
        uint32_t hex4() {
            uint32_t unit = 0;
            for (int i = 0; i < 4; ++i, ++at) {
                const char c = peek();
                const int d = c >= '0' && c <= '9'   ? c - '0'
                              : c >= 'a' && c <= 'f' ? c - 'a' + 10
                              : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                     : -1;
                if (d < 0) fail("four hexadecimal digits are expected");
                unit = unit << 4 | static_cast<uint32_t>(d);
            }
            return unit;
        }
        void escaped(std::string &out) {
            const char c = peek();
            static constexpr std::string_view kFrom = "\"\\/bfnrt", kTo = "\"\\/\b\f\n\r\t";
            ++at;
            if (const size_t i = kFrom.find(c); i != std::string_view::npos) {
                out += kTo[i];
                return;
            }
            if (c != 'u') fail("an unknown escape");
            uint32_t code = hex4();
            if (code >= 0xdc00 && code < 0xe000) fail("half a surrogate pair");
            if (code >= 0xd800 && code < 0xdc00) {
                expect("\\u");
                const uint32_t low = hex4();
                if (low < 0xdc00 || low >= 0xe000) fail("half a surrogate pair");
                code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            }
            const auto put = [&](uint32_t byte) { out += static_cast<char>(byte); };
            if (code < 0x80) {
                put(code);
            } else if (code < 0x800) {
                put(0xc0 | code >> 6);
                put(0x80 | (code & 63));
            } else if (code < 0x10000) {
                put(0xe0 | code >> 12);
                put(0x80 | (code >> 6 & 63));
                put(0x80 | (code & 63));
            } else {
                put(0xf0 | code >> 18);
                put(0x80 | (code >> 12 & 63));
                put(0x80 | (code >> 6 & 63));
                put(0x80 | (code & 63));
            }
        }
        std::string quoted() {
            std::string out;
            for (++at;;) {
                if (at >= text.size()) fail("a string does not end");
                const char c = text[at++];
                if (c == '"') return out;
                if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string");
                if (c == '\\')
                    escaped(out);
                else
                    out += c;
            }
        }
    };

    Type type_ = Type::kNull;
    uint64_t number_ = 0;
    std::string text_;
    std::vector<Json> items_;
    std::map<std::string, Json> members_;
};

} // namespace gantry
