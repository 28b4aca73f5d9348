// The part of the Dockerfile language that describes an image instead of building it.
#include "core/image/instructions.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <charconv>
#include <cstdint>
#include <string_view>

namespace gantry {
namespace {

namespace json = boost::json;

[[noreturn]] void bad_change(const std::string &change, const std::string &why) {
    throw Error(ErrorClass::kInvalidArgument, "apply change \"" + change + "\": " + why);
}

bool name_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

class Instruction {
  public:
    Instruction(json::object &config, const std::string &text) : config_(config), text_(text) {}
    /// `command_set`: a CMD came before; an ENTRYPOINT then leaves it alone.
    void apply(bool &command_set);

  private:
    std::string variable(std::string_view rest, size_t &at) const;
    std::vector<std::string> words(std::string_view rest) const;
    std::string line(std::string_view rest) const;
    json::array command(const std::string &rest) const;
    std::vector<std::pair<std::string, std::string>> pairs(const std::string &rest) const;
    std::vector<std::string> list_or_words(const std::string &rest) const;
    void health_check(const std::string &rest);
    json::object &map(const char *key) {
        auto &value = config_[key];
        if (!value.is_object()) value = json::object();
        return value.get_object();
    }
    json::array &list(const char *key) {
        auto &value = config_[key];
        if (!value.is_array()) value = json::array();
        return value.get_array();
    }

    json::object &config_;
    const std::string &text_;
};

/// `at` stands behind the "$". ${NAME}, ${NAME:-default}, ${NAME:+other}, $NAME.
std::string Instruction::variable(std::string_view rest, size_t &at) const {
    const bool braces = at < rest.size() && rest[at] == '{';
    if (braces) ++at;
    const size_t start = at;
    while (at < rest.size() && name_char(rest[at]))
        ++at;
    const std::string name(rest.substr(start, at - start));
    if (name.empty() && !braces) return "$";
    std::string value;
    if (const auto *env = config_.if_contains("Env"); env && env->is_array())
        for (const auto &entry : env->get_array())
            if (entry.is_string() && std::string_view(entry.get_string()).starts_with(name + "="))
                value = std::string(entry.get_string()).substr(name.size() + 1);
    if (!braces) return value;
    const size_t end = rest.find('}', at);
    if (name.empty() || end == std::string_view::npos)
        bad_change(text_, "a variable's braces are not closed");
    const std::string_view modifier = rest.substr(at, end - at);
    at = end + 1;
    if (modifier.empty()) return value;
    if (modifier.starts_with(":-")) return value.empty() ? std::string(modifier.substr(2)) : value;
    if (modifier.starts_with(":+")) return value.empty() ? "" : std::string(modifier.substr(2));
    bad_change(text_, "the modifier in ${" + name + std::string(modifier) + "} is not known");
}

std::vector<std::string> Instruction::words(std::string_view text) const {
    std::vector<std::string> out;
    std::string word;
    bool any = false;
    char quote = 0;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '\\' && quote != '\'' && i + 1 < text.size()) {
            word += text[++i];
            any = true;
        } else if (c == '$' && quote != '\'') {
            word += variable(text, ++i);
            --i;
            any = true;
        } else if (quote) {
            if (c == quote)
                quote = 0;
            else
                word += c;
        } else if (c == '"' || c == '\'') {
            quote = c;
            any = true;
        } else if (c == ' ' || c == '\t') {
            if (any) out.push_back(std::move(word));
            word.clear();
            any = false;
        } else {
            word += c;
            any = true;
        }
    }
    if (any) out.push_back(std::move(word));
    return out;
}

std::string Instruction::line(std::string_view rest) const {
    std::string out;
    for (const auto &word : words(rest))
        out += (out.empty() ? "" : " ") + word;
    return out;
}

/// ["a","b"] or a shell line, which Docker wraps in the image's SHELL.
json::array Instruction::command(const std::string &rest) const {
    boost::system::error_code failed;
    if (auto value = json::parse(rest, failed); !failed && value.is_array()) {
        bool texts = true;
        for (const auto &item : value.get_array())
            texts = texts && item.is_string();
        if (texts) return value.get_array();
    }
    json::array out{"/bin/sh", "-c"};
    if (const auto *shell = config_.if_contains("Shell");
        shell && shell->is_array() && !shell->get_array().empty())
        out = shell->get_array();
    out.push_back(json::string(rest));
    return out;
}

/// "A=b C=d" pairs, or the old form "A b".
std::vector<std::pair<std::string, std::string>> Instruction::pairs(const std::string &rest) const {
    std::vector<std::pair<std::string, std::string>> out;
    const auto all = words(rest);
    if (all.empty()) bad_change(text_, "needs a name and a value");
    if (all[0].find('=') == std::string::npos) {
        const size_t space = rest.find_first_of(" \t");
        if (space == std::string::npos) bad_change(text_, "needs a name and a value");
        return {{rest.substr(0, space), line(rest.substr(rest.find_first_not_of(" \t", space)))}};
    }
    for (const auto &word : all) {
        const size_t equals = word.find('=');
        if (equals == std::string::npos || equals == 0)
            bad_change(text_, "\"" + word + "\" is not name=value");
        out.emplace_back(word.substr(0, equals), word.substr(equals + 1));
    }
    return out;
}

std::vector<std::string> Instruction::list_or_words(const std::string &rest) const {
    boost::system::error_code failed;
    std::vector<std::string> out;
    if (auto value = json::parse(rest, failed); !failed && value.is_array()) {
        for (const auto &item : value.get_array())
            if (item.is_string()) out.emplace_back(item.get_string());
        return out;
    }
    return words(rest);
}

/// Go's notation: "1m30s", "500ms".
bool parse_duration(std::string_view text, int64_t &ns) {
    static const std::pair<std::string_view, double> kUnits[] = {{"ns", 1},  {"us", 1e3}, {"ms", 1e6},
                                                                 {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}};
    double total = 0;
    if (text.empty()) return false;
    while (!text.empty()) {
        double number = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
        if (error != std::errc() || number < 0) return false;
        text.remove_prefix(static_cast<size_t>(end - text.data()));
        const std::string_view unit = text.substr(0, text.find_first_of("0123456789."));
        text.remove_prefix(unit.size());
        double factor = 0;
        for (const auto &[name, value] : kUnits)
            if (name == unit) factor = value;
        if (factor == 0) return false;
        total += number * factor;
    }
    ns = static_cast<int64_t>(total);
    return total < 9e18;
}

void Instruction::health_check(const std::string &whole) {
    json::object check;
    std::string rest = whole;
    const auto next_word = [&] {
        const size_t end = std::min(rest.find_first_of(" \t"), rest.size());
        std::string word = rest.substr(0, end);
        rest.erase(0, std::min(rest.find_first_not_of(" \t", end), rest.size()));
        return word;
    };
    std::string word = next_word();
    static const std::pair<std::string_view, const char *> kTimes[] = {
        {"--interval=", "Interval"},
        {"--timeout=", "Timeout"},
        {"--start-period=", "StartPeriod"},
        {"--start-interval=", "StartInterval"}};
    for (; word.starts_with("--"); word = next_word()) {
        bool known = false;
        for (const auto &[option, key] : kTimes) {
            int64_t ns = 0;
            if (!word.starts_with(option)) continue;
            if (!parse_duration(std::string_view(word).substr(option.size()), ns) || ns < 1'000'000)
                bad_change(text_, word + " is no duration of a millisecond or more");
            check[key] = ns;
            known = true;
        }
        if (word.starts_with("--retries=")) {
            int number = 0;
            const char *end = word.data() + word.size();
            if (auto [at, error] = std::from_chars(word.data() + 10, end, number);
                error != std::errc() || at != end || number < 1)
                bad_change(text_, word + " is no positive number");
            check["Retries"] = number;
            known = true;
        }
        if (!known) bad_change(text_, "unknown option " + word);
    }
    if (word == "NONE" && rest.empty() && check.empty()) {
        check["Test"] = json::array{"NONE"};
    } else if (word == "CMD" && !rest.empty()) {
        boost::system::error_code failed;
        auto value = json::parse(rest, failed);
        if (!failed && value.is_array()) {
            json::array test{"CMD"};
            for (auto &item : value.get_array()) {
                if (!item.is_string()) bad_change(text_, "the command is no list of strings");
                test.push_back(item);
            }
            check["Test"] = std::move(test);
        } else {
            check["Test"] = json::array{"CMD-SHELL", rest};
        }
    } else {
        bad_change(text_, "needs NONE or CMD with a command");
    }
    config_["Healthcheck"] = std::move(check);
}

void Instruction::apply(bool &command_set) {
    const std::string &change = text_;
    const size_t start = change.find_first_not_of(" \t");
    const size_t space = start == std::string::npos ? start : change.find_first_of(" \t", start);
    if (space == std::string::npos) bad_change(change, "needs an instruction and its arguments");
    std::string verb = change.substr(start, space - start);
    for (char &c : verb)
        c = static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c);
    const size_t from = change.find_first_not_of(" \t", space);
    if (from == std::string::npos) bad_change(change, "needs arguments");
    std::string rest = change.substr(from);
    while (rest.ends_with(' ') || rest.ends_with('\t') || rest.ends_with('\n') || rest.ends_with('\r'))
        rest.pop_back();

    if (verb == "CMD") {
        config_["Cmd"] = command(rest);
        command_set = true;
    } else if (verb == "ENTRYPOINT") {
        config_["Entrypoint"] = command(rest);
        if (!command_set) config_.erase("Cmd"); // the old arguments were another program's
    } else if (verb == "ENV") {
        for (const auto &[name, value] : pairs(rest)) {
            auto &items = list("Env");
            for (auto it = items.begin(); it != items.end();)
                it = it->is_string() && std::string_view(it->get_string()).starts_with(name + "=")
                         ? items.erase(it)
                         : it + 1;
            items.push_back(json::string(name + "=" + value));
        }
    } else if (verb == "LABEL") {
        for (const auto &[name, value] : pairs(rest))
            map("Labels")[name] = value;
    } else if (verb == "EXPOSE") {
        for (const auto &port : words(rest)) {
            const size_t slash = port.find('/');
            const std::string protocol = slash == std::string::npos ? "tcp" : port.substr(slash + 1);
            const std::string range = port.substr(0, slash);
            int low = 0, high = 0;
            const char *end = range.data() + range.size();
            auto [at, error] = std::from_chars(range.data(), end, low);
            high = low;
            if (error == std::errc() && at != end && *at == '-') {
                auto second = std::from_chars(at + 1, end, high);
                at = second.ptr;
                error = second.ec;
            }
            if (error != std::errc() || at != end || low < 1 || high > 65535 || high < low ||
                (protocol != "tcp" && protocol != "udp" && protocol != "sctp"))
                bad_change(change, "bad port " + port);
            for (int number = low; number <= high; ++number)
                map("ExposedPorts")[std::to_string(number) + "/" + protocol] = json::object();
        }
    } else if (verb == "VOLUME") {
        for (const auto &path : list_or_words(rest)) {
            if (path.empty()) bad_change(change, "a volume's path is empty");
            map("Volumes")[path] = json::object();
        }
    } else if (verb == "WORKDIR") {
        std::string path = line(rest);
        const auto *before = config_.if_contains("WorkingDir");
        if (!path.starts_with('/'))
            path = (before && before->is_string() ? std::string(before->get_string()) : "") + "/" + path;
        config_["WorkingDir"] = path;
    } else if (verb == "USER") {
        config_["User"] = line(rest);
    } else if (verb == "STOPSIGNAL") {
        config_["StopSignal"] = line(rest);
    } else if (verb == "SHELL") {
        json::array shell;
        for (const auto &word : list_or_words(rest))
            shell.push_back(json::string(word));
        config_["Shell"] = std::move(shell);
    } else if (verb == "ONBUILD") {
        std::string trigger = rest.substr(0, rest.find_first_of(" \t"));
        for (char &c : trigger)
            c = static_cast<char>(c >= 'a' && c <= 'z' ? c - 32 : c);
        if (trigger == "ONBUILD" || trigger == "FROM" || trigger == "MAINTAINER")
            bad_change(change, trigger + " isn't allowed as an ONBUILD trigger");
        list("OnBuild").push_back(json::string(rest));
    } else if (verb == "HEALTHCHECK") {
        health_check(rest);
    } else {
        bad_change(change, verb + " is not a valid change command");
    }
}

} // namespace

void apply_instructions(json::object &config, const std::vector<std::string> &instructions) {
    bool command_set = false;
    for (const auto &text : instructions)
        Instruction(config, text).apply(command_set);
}

} // namespace gantry
