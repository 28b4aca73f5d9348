#include "core/api/dialect.h"
#include "core/base/ids.h"
#include "core/container/containers.h"

#include <gantry/error.hpp>

#include <algorithm>
#include <boost/json.hpp>
#include <charconv>
#include <fmt/format.h>
#include <regex.h>

namespace json = boost::json;

namespace gantry::api {

bool parse_bool(std::string_view text) {
    std::string word;
    for (char c : text)
        if (c != ' ') word += char(tolower(static_cast<unsigned char>(c)));
    return !(word.empty() || word == "0" || word == "no" || word == "false" || word == "none");
}

int64_t parse_integer(const std::string &text, int64_t fallback, const char *what) {
    if (text.empty()) return fallback;
    int64_t value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size())
        throw Error(ErrorClass::kInvalidArgument,
                    fmt::format("invalid value \"{}\" for parameter {}: not a number", text, what));
    return value;
}

Filters::Filters(const std::string &text, const std::vector<std::string> &allowed) {
    if (text.empty()) return;
    boost::system::error_code error;
    json::value parsed = json::parse(text, error);
    if (error || !parsed.is_object())
        throw Error(ErrorClass::kInvalidArgument, "invalid filter: it must be a JSON object of lists");
    for (const auto &[raw_key, value] : parsed.get_object()) {
        std::string key(raw_key);
        if (std::find(allowed.begin(), allowed.end(), key) == allowed.end())
            throw Error(ErrorClass::kInvalidArgument, "invalid filter '" + key + "'");
        auto &list = values_[key];
        if (value.is_object()) {
            for (const auto &[item, on] : value.get_object())
                if (!on.is_bool() || on.get_bool()) list.emplace_back(item);
        } else if (value.is_array()) {
            for (const auto &item : value.get_array())
                list.push_back(item.is_string() ? std::string(item.get_string()) : json::serialize(item));
        } else {
            throw Error(ErrorClass::kInvalidArgument, "invalid filter '" + key + "': it must be a list");
        }
        if (list.empty()) values_.erase(key);
    }
}

const std::vector<std::string> &Filters::values(const std::string &key) const {
    static const std::vector<std::string> none;
    auto found = values_.find(key);
    return found == values_.end() ? none : found->second;
}

bool Filters::match(const std::string &key, const std::string &value) const {
    if (!has(key)) return true;
    const auto &list = values(key);
    return std::find(list.begin(), list.end(), value) != list.end();
}

bool Filters::match_pattern(const std::string &key, const std::string &value) const {
    if (!has(key)) return true;
    for (const std::string &pattern : values(key)) {
        if (value.find(pattern) != std::string::npos) return true;
        if (pattern.size() > 256 || pattern.find_first_of("^$.*+?[](){}|\\") == std::string::npos) continue;
        regex_t compiled;
        if (regcomp(&compiled, pattern.c_str(), REG_EXTENDED | REG_NOSUB) != 0) continue;
        const bool hit = regexec(&compiled, value.c_str(), 0, nullptr, 0) == 0;
        regfree(&compiled);
        if (hit) return true;
    }
    return false;
}

bool Filters::match_labels(const std::string &filter,
                           const std::map<std::string, std::string> &labels) const {
    for (const std::string &wanted : values(filter)) {
        size_t equals = wanted.find('=');
        auto found = labels.find(wanted.substr(0, equals));
        if (found == labels.end()) return false;
        if (equals != wanted.npos && found->second != wanted.substr(equals + 1)) return false;
    }
    return true;
}

int Filters::boolean(const std::string &key) const {
    if (!has(key)) return -1;
    const std::string &word = values(key).front();
    if (word == "true" || word == "1" || word == "True") return 1;
    if (word == "false" || word == "0" || word == "False") return 0;
    throw Error(ErrorClass::kInvalidArgument, "invalid filter '" + key + "=" + word + "'");
}

std::string human_duration(int64_t ns) {
    const int64_t seconds = ns / 1'000'000'000;
    if (seconds < 1) return "Less than a second";
    if (seconds == 1) return "1 second";
    if (seconds < 60) return fmt::format("{} seconds", seconds);
    const int64_t minutes = seconds / 60;
    if (minutes == 1) return "About a minute";
    if (minutes < 60) return fmt::format("{} minutes", minutes);
    const int64_t hours = (minutes + 30) / 60;
    if (hours == 1) return "About an hour";
    if (hours < 48) return fmt::format("{} hours", hours);
    if (hours < 24 * 7 * 2) return fmt::format("{} days", hours / 24);
    if (hours < 24 * 30 * 2) return fmt::format("{} weeks", hours / 24 / 7);
    if (hours < 24 * 365 * 2) return fmt::format("{} months", hours / 24 / 30);
    return fmt::format("{} years", hours / 24 / 365);
}

std::string status_sentence(const ContainerState &s, int64_t now_ns) {
    if (s.restarting)
        return fmt::format("Restarting ({}) {} ago", s.exit_code, human_duration(now_ns - s.finished_ns));
    if (s.running) {
        std::string up = "Up " + human_duration(now_ns - s.started_ns);
        if (s.paused) return up + " (Paused)";
        if (s.health == "starting") return up + " (health: starting)";
        if (!s.health.empty() && s.health != "none") return up + " (" + s.health + ")";
        return up;
    }
    if (s.status == "removing") return "Removal In Progress";
    if (s.dead || s.status == "dead") return "Dead";
    if (s.status == "created" || s.finished_ns == 0) return "Created";
    return fmt::format("Exited ({}) {} ago", s.exit_code, human_duration(now_ns - s.finished_ns));
}

std::string human_size(double bytes) {
    static const char *const kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    size_t unit = 0;
    while (bytes >= 1000.0 && unit + 1 < std::size(kUnits))
        bytes /= 1000.0, ++unit;
    return fmt::format("{:.4g}{}", bytes, kUnits[unit]);
}

std::string progress_bar(uint64_t current, uint64_t total) {
    if (current == 0 && total == 0) return {};
    if (total == 0 || current > total) return fmt::format("{:>8}", human_size(double(current)));
    const size_t filled = std::min<size_t>(50, size_t(double(current) / double(total) * 50));
    return fmt::format("[{}>{}] {:>8}/{}", std::string(filled, '='), std::string(50 - filled, ' '),
                       human_size(double(current)), human_size(double(total)));
}

std::optional<std::string> decode_base64(std::string_view text) {
    while (!text.empty() && text.back() == '=')
        text.remove_suffix(1);
    if (text.size() % 4 == 1) return std::nullopt;
    std::string out;
    uint32_t bits = 0;
    int count = 0;
    for (char c : text) {
        int value;
        if (c >= 'A' && c <= 'Z')
            value = c - 'A';
        else if (c >= 'a' && c <= 'z')
            value = c - 'a' + 26;
        else if (c >= '0' && c <= '9')
            value = c - '0' + 52;
        else if (c == '+' || c == '-')
            value = 62;
        else if (c == '/' || c == '_')
            value = 63;
        else
            return std::nullopt;
        bits = bits << 6 | uint32_t(value);
        count += 6;
        if (count >= 8) {
            count -= 8;
            out += char(bits >> count & 0xff);
        }
    }
    return out;
}

std::optional<Credential> decode_credential(const std::string &header) {
    if (header.empty()) return std::nullopt;
    auto text = decode_base64(header);
    if (!text) return std::nullopt;
    boost::system::error_code error;
    json::value parsed = json::parse(*text, error);
    if (error || !parsed.is_object()) return std::nullopt;
    auto field = [&](const char *name) -> std::string {
        const json::value *value = parsed.get_object().if_contains(name);
        return value && value->is_string() ? std::string(value->get_string()) : std::string();
    };
    Credential out{field("serveraddress"), field("username"), field("password"), field("identitytoken"),
                   field("registrytoken")};
    if (out.username.empty() && out.password.empty()) { // "auth": base64(user:password)
        if (auto pair = decode_base64(field("auth")); pair && pair->find(':') != std::string::npos) {
            out.username = pair->substr(0, pair->find(':'));
            out.password = pair->substr(pair->find(':') + 1);
        }
    }
    if (out.username.empty() && out.password.empty() && out.identity_token.empty() &&
        out.registry_token.empty())
        return std::nullopt;
    return out;
}

std::optional<Credential> credential_for(const std::string &header, const std::string &registry_written,
                                         const std::string &registry_meant) {
    auto out = decode_credential(header);
    if (out && registry_written != registry_meant && out->server != registry_meant) out.reset();
    return out;
}

} // namespace gantry::api
