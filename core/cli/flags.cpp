// Error texts are pflag's, word for word: scripts and people know them.
#include "core/cli/flags.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace gantry::cli {
namespace {

const char *type_name(FlagType type) {
    switch (type) {
    case FlagType::kBool: return "";
    case FlagType::kString: return "string";
    case FlagType::kInt: return "int";
    case FlagType::kList: return "list";
    case FlagType::kBytes: return "bytes";
    case FlagType::kDuration: return "duration";
    case FlagType::kDecimal: return "decimal";
    }
    return "";
}

bool parse_bool(std::string_view text) {
    for (const char *yes : {"1", "t", "T", "true", "TRUE", "True"})
        if (text == yes) return true;
    for (const char *no : {"0", "f", "F", "false", "FALSE", "False"})
        if (text == no) return false;
    throw FlagError{"strconv.ParseBool: parsing \"" + std::string(text) + "\": invalid syntax"};
}

void check_value(const Flag &flag, const std::string &value) {
    try {
        switch (flag.type) {
        case FlagType::kBool: parse_bool(value); break;
        case FlagType::kInt: parse_integer(value); break;
        case FlagType::kBytes:
            if (value != "-1") parse_bytes(value);
            break;
        case FlagType::kDuration: parse_duration(value); break;
        case FlagType::kDecimal: {
            double number = 0;
            auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
            if (error != std::errc() || end != value.data() + value.size() || !std::isfinite(number) ||
                std::fabs(number) > 1e6)
                throw FlagError{"failed to parse " + value + " as a rational number"};
            break;
        }
        case FlagType::kString:
        case FlagType::kList: break;
        }
    } catch (const FlagError &error) {
        std::string shown = flag.shorthand ? "-" + std::string(1, flag.shorthand) + ", --" : "--";
        throw FlagError{"invalid argument \"" + value + "\" for \"" + shown + flag.name +
                        "\" flag: " + error.message};
    }
}

} // namespace

bool ParsedFlags::is_set(std::string_view name) const {
    auto found = values_.find(name);
    return found != values_.end() && parse_bool(found->second.back());
}

std::string ParsedFlags::get(std::string_view name, const std::string &fallback) const {
    auto found = values_.find(name);
    return found == values_.end() ? fallback : found->second.back();
}

int64_t ParsedFlags::integer(std::string_view name, int64_t fallback) const {
    auto found = values_.find(name);
    return found == values_.end() ? fallback : parse_integer(found->second.back());
}

const std::vector<std::string> &ParsedFlags::list(std::string_view name) const {
    static const std::vector<std::string> kNone;
    auto found = values_.find(name);
    return found == values_.end() ? kNone : found->second;
}

ParsedFlags parse_flags(std::span<const Flag> flags, std::span<const std::string> args,
                        bool stop_at_positional) {
    ParsedFlags parsed;
    auto store = [&](const Flag &flag, std::string value) {
        check_value(flag, value);
        parsed.add(flag.name, std::move(value));
    };
    size_t index = 0;
    for (; index < args.size(); ++index) {
        const std::string &arg = args[index];
        if (arg == "--") {
            ++index;
            break;
        }
        if (arg.size() < 2 || arg[0] != '-') {
            if (stop_at_positional) break;
            parsed.positional.push_back(arg);
            continue;
        }
        if (arg[1] == '-') {
            size_t equal = arg.find('=');
            std::string name = arg.substr(2, equal == std::string::npos ? equal : equal - 2);
            auto flag =
                std::find_if(flags.begin(), flags.end(), [&](const Flag &f) { return name == f.name; });
            if (name == "help" && flag == flags.end()) {
                parsed.add("help", "true");
                continue;
            }
            if (flag == flags.end()) throw FlagError{"unknown flag: --" + name};
            if (equal != std::string::npos)
                store(*flag, arg.substr(equal + 1));
            else if (flag->type == FlagType::kBool)
                store(*flag, "true");
            else if (index + 1 < args.size())
                store(*flag, args[++index]);
            else
                throw FlagError{"flag needs an argument: --" + name};
            continue;
        }
        for (size_t at = 1; at < arg.size(); ++at) {
            auto flag = std::find_if(flags.begin(), flags.end(),
                                     [&](const Flag &f) { return f.shorthand && f.shorthand == arg[at]; });
            if (flag == flags.end())
                throw FlagError{"unknown shorthand flag: '" + std::string(1, arg[at]) + "' in " + "-" +
                                arg.substr(at)};
            if (flag->type == FlagType::kBool) {
                if (at + 1 < arg.size() && arg[at + 1] == '=') {
                    store(*flag, arg.substr(at + 2));
                    break;
                }
                store(*flag, "true");
                continue;
            }
            if (at + 1 < arg.size())
                store(*flag, arg.substr(arg[at + 1] == '=' ? at + 2 : at + 1));
            else if (index + 1 < args.size())
                store(*flag, args[++index]);
            else
                throw FlagError{"flag needs an argument: '" + std::string(1, arg[at]) + "' in " + "-" +
                                arg.substr(at)};
            break;
        }
    }
    parsed.positional.insert(parsed.positional.end(), args.begin() + static_cast<ptrdiff_t>(index),
                             args.end());
    return parsed;
}

std::string format_flags(std::span<const Flag> flags) {
    std::vector<std::pair<std::string, const char *>> rows;
    std::vector<const Flag *> sorted;
    for (const Flag &flag : flags)
        if (!flag.hidden) sorted.push_back(&flag);
    std::sort(sorted.begin(), sorted.end(),
              [](const Flag *a, const Flag *b) { return std::string_view(a->name) < b->name; });
    size_t width = 0;
    for (const Flag *flag : sorted) {
        std::string left = flag->shorthand ? "  -" + std::string(1, flag->shorthand) + ", --" : "      --";
        left += flag->name;
        const char *value = flag->value_name ? flag->value_name : type_name(flag->type);
        if (*value) left += " " + std::string(value);
        width = std::max(width, left.size());
        rows.emplace_back(std::move(left), flag->doc);
    }
    std::string text;
    for (auto &[left, doc] : rows)
        text += left + std::string(width + 3 - left.size(), ' ') + doc + "\n";
    return text;
}

int64_t parse_integer(std::string_view text) {
    int64_t value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || error != std::errc() || end != text.data() + text.size())
        throw FlagError{"strconv.ParseInt: parsing \"" + std::string(text) + "\": invalid syntax"};
    return value;
}

int64_t parse_bytes(std::string_view text) {
    double value = 0;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    std::string unit(end, static_cast<size_t>(text.data() + text.size() - end));
    while (!unit.empty() && unit.front() == ' ')
        unit.erase(0, 1);
    for (char &c : unit)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    static constexpr std::string_view kUnits = "kmgtp";
    double factor = 1;
    bool good = error == std::errc() && value >= 0;
    if (!unit.empty() && unit != "b") {
        size_t power = kUnits.find(unit[0]);
        good = good && power != std::string_view::npos &&
               (unit.size() == 1 || unit.substr(1) == "b" || unit.substr(1) == "ib");
        for (size_t i = 0; good && i <= power; ++i)
            factor *= 1024;
    }
    if (!good || value * factor >= 9.2e18) throw FlagError{"invalid size: '" + std::string(text) + "'"};
    return static_cast<int64_t>(value * factor);
}

int64_t parse_duration(std::string_view text) {
    auto fail = [&] { throw FlagError{"time: invalid duration \"" + std::string(text) + "\""}; };
    if (text == "0") return 0;
    double total = 0;
    const char *at = text.data(), *last = text.data() + text.size();
    if (at == last) fail();
    while (at < last) {
        double value = 0;
        auto [end, error] = std::from_chars(at, last, value, std::chars_format::fixed);
        if (error != std::errc() || value < 0) fail();
        const char *unit_end = end;
        while (unit_end < last && *unit_end >= 'a' && *unit_end <= 'z')
            ++unit_end;
        std::string_view unit(end, static_cast<size_t>(unit_end - end));
        if (unit == "ns")
            total += value;
        else if (unit == "us")
            total += value * 1e3;
        else if (unit == "ms")
            total += value * 1e6;
        else if (unit == "s")
            total += value * 1e9;
        else if (unit == "m")
            total += value * 60e9;
        else if (unit == "h")
            total += value * 3600e9;
        else
            fail();
        at = unit_end;
    }
    if (total >= 9.2e18) fail();
    return static_cast<int64_t>(std::llround(total));
}

} // namespace gantry::cli
