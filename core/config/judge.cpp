// Judgement of values: types, bounds, choices, defaults, shorthand, and the words for what is wrong.
#include "core/config/judge.h"

#include <algorithm>
#include <cmath>
#include <fmt/format.h>

namespace gantry {
namespace {

const char *type_name(gantry_type type) {
    switch (type) {
    case GANTRY_TYPE_BOOL: return "a boolean";
    case GANTRY_TYPE_INT: return "an integer";
    case GANTRY_TYPE_FLOAT: return "a number";
    case GANTRY_TYPE_STRING: return "a string";
    case GANTRY_TYPE_DURATION: return "a duration like \"30s\"";
    case GANTRY_TYPE_SIZE: return "a size like \"64MiB\"";
    case GANTRY_TYPE_LIST: return "a list";
    case GANTRY_TYPE_TABLE: return "a table";
    case GANTRY_TYPE_MAP: return "a table";
    }
    return "something unknown";
}

/// A flag's text gets its TOML type from the schema: `--set engine.root=/x` needs no quotes.
Node resolve_raw(const gantry_option &option, const Node &node) {
    const bool quoted = !node.s.empty() && (node.s[0] == '"' || node.s[0] == '\'');
    Node plain = node;
    plain.type = Node::Type::kString;
    Node value;
    if (option.type == GANTRY_TYPE_STRING && !quoted) return plain;
    if (option.type == GANTRY_TYPE_LIST && (node.s.empty() || node.s[0] != '[')) {
        value.type = Node::Type::kList;
        for (size_t at = 0; !node.s.empty() && at <= node.s.size();) {
            const size_t end = std::min(node.s.find(',', at), node.s.size());
            Node item = node; // still raw: the element's schema decides
            item.s = node.s.substr(at, end - at);
            value.items.push_back(std::move(item));
            at = end + 1;
        }
    } else {
        try {
            value = parse_value(node.s, node.origin.source);
        } catch (const Error &) {
            return plain;
        }
    }
    const auto stamp = [&](auto &&self, Node &n) -> void {
        n.origin = node.origin;
        for (Node &item : n.items)
            self(self, item);
        for (Node::Entry &entry : n.entries) {
            entry.key_origin = node.origin;
            self(self, entry.value);
        }
    };
    stamp(stamp, value);
    return value;
}

gantry_value judge(const gantry_option &option, const Node &given, const std::string &path,
                   ValueArena &arena) {
    if (given.type == Node::Type::kRaw) return judge(option, resolve_raw(option, given), path, arena);
    const auto wrong_type = [&]() {
        return config_error(given.origin, path + " must be " + type_name(option.type) + ", not " +
                                              gantry::type_name(given.type));
    };
    const auto in_bounds = [&](int64_t value) {
        if (option.min == 0 && option.max == 0) return;
        if (value < option.min || value > option.max)
            throw config_error(given.origin, fmt::format("{} must be between {} and {}", path,
                                                         show_bound_text(option, option.min),
                                                         show_bound_text(option, option.max)));
    };
    gantry_value value{};
    value.type = option.type;
    switch (option.type) {
    case GANTRY_TYPE_BOOL:
        if (given.type != Node::Type::kBool) throw wrong_type();
        value.as.b = given.b;
        break;
    case GANTRY_TYPE_INT:
        if (given.type != Node::Type::kInt) throw wrong_type();
        in_bounds(given.i);
        value.as.i = given.i;
        break;
    case GANTRY_TYPE_FLOAT:
        if (given.type != Node::Type::kFloat && given.type != Node::Type::kInt) throw wrong_type();
        value.as.f = given.type == Node::Type::kInt ? static_cast<double>(given.i) : given.f;
        if (!std::isfinite(value.as.f)) throw config_error(given.origin, path + " must be finite");
        break;
    case GANTRY_TYPE_STRING:
        if (given.type != Node::Type::kString) throw wrong_type();
        if (option.choices) {
            std::vector<std::string> allowed;
            for (const char *const *c = option.choices; *c; ++c)
                allowed.emplace_back(*c);
            if (std::find(allowed.begin(), allowed.end(), given.s) == allowed.end())
                throw config_error(given.origin, fmt::format("{} must be one of {}, not '{}'{}", path,
                                                             fmt::join(allowed, ", "), given.s,
                                                             did_you_mean(given.s, allowed)));
        }
        value.as.s = arena.keep(given.s);
        break;
    case GANTRY_TYPE_DURATION:
    case GANTRY_TYPE_SIZE: {
        int64_t number = 0;
        const bool duration = option.type == GANTRY_TYPE_DURATION;
        if (given.type == Node::Type::kInt && (!duration || given.i == 0))
            number = given.i;
        else if (given.type != Node::Type::kString)
            throw wrong_type();
        else if (!(duration ? parse_duration(given.s, number) : parse_size(given.s, number)))
            throw config_error(given.origin,
                               fmt::format("{} must be {}, not '{}'", path, type_name(option.type), given.s));
        if (number < 0) throw config_error(given.origin, path + " must not be negative");
        in_bounds(number);
        value.as.i = number;
        break;
    }
    case GANTRY_TYPE_LIST: {
        if (given.type != Node::Type::kList) throw wrong_type();
        std::vector<gantry_value> items;
        for (size_t i = 0; i < given.items.size(); ++i)
            items.push_back(judge(option.children[0], given.items[i], fmt::format("{}[{}]", path, i), arena));
        value.count = static_cast<uint32_t>(items.size());
        value.items = arena.values.emplace_back(std::move(items)).data();
        break;
    }
    case GANTRY_TYPE_MAP: {
        if (given.type != Node::Type::kTable) throw wrong_type();
        std::vector<gantry_value> items;
        std::vector<const char *> keys;
        for (const Node::Entry &entry : given.entries) {
            items.push_back(judge(option.children[0], entry.value, path + "." + quote_key(entry.key), arena));
            keys.push_back(arena.keep(entry.key));
        }
        value.count = static_cast<uint32_t>(items.size());
        value.items = arena.values.emplace_back(std::move(items)).data();
        value.keys = arena.keys.emplace_back(std::move(keys)).data();
        break;
    }
    case GANTRY_TYPE_TABLE:
        return judge_table(option.children, option.child_count, &given, path, arena, false, option.shorthand);
    default: throw Error(ErrorClass::kInternal, "judge " + path + ": the schema has an unknown type");
    }
    return value;
}

struct Unit {
    const char *name;
    double factor;
};
constexpr Unit kTimes[] = {{"ns", 1},   {"us", 1e3},   {"ms", 1e6},   {"s", 1e9},
                           {"m", 60e9}, {"h", 3600e9}, {"d", 86400e9}};
constexpr Unit kSizes[] = {{"", 1},
                           {"b", 1},
                           {"k", 1024},
                           {"kb", 1e3},
                           {"kib", 1024},
                           {"m", 1048576},
                           {"mb", 1e6},
                           {"mib", 1048576},
                           {"g", 1073741824},
                           {"gb", 1e9},
                           {"gib", 1073741824},
                           {"t", 1099511627776.0},
                           {"tb", 1e12},
                           {"tib", 1099511627776.0}};

/// One "<number><unit>" from `at` on.
template <size_t n>
bool parse_part(const std::string &text, size_t &at, const Unit (&units)[n], double &out) {
    size_t end = at;
    while (end < text.size() && (std::isdigit(static_cast<unsigned char>(text[end])) || text[end] == '.'))
        ++end;
    if (end == at || end - at > 18 || std::count(text.begin() + at, text.begin() + end, '.') > 1 ||
        text[at] == '.')
        return false;
    const double number = std::stod(text.substr(at, end - at));
    while (end < text.size() && text[end] == ' ')
        ++end;
    std::string unit;
    for (; end < text.size() && std::isalpha(static_cast<unsigned char>(text[end])); ++end)
        unit += static_cast<char>(std::tolower(static_cast<unsigned char>(text[end])));
    at = end;
    for (const Unit &u : units)
        if (unit == u.name) {
            out += number * u.factor;
            return out < 9e18;
        }
    return false;
}

} // namespace

gantry_value judge_table(const gantry_option *options, uint32_t count, const Node *table,
                         const std::string &path, ValueArena &arena, bool keep_unknown_tables,
                         const char *shorthand) {
    Node wrapped;
    if (table && table->type == Node::Type::kRaw) {
        const gantry_option as_table{sizeof(gantry_option),
                                     GANTRY_TYPE_TABLE,
                                     "",
                                     nullptr,
                                     "",
                                     nullptr,
                                     0,
                                     0,
                                     options,
                                     count,
                                     0,
                                     shorthand};
        wrapped = resolve_raw(as_table, *table);
        table = &wrapped;
    }
    if (table && table->type == Node::Type::kString && shorthand) {
        Node outer;
        outer.origin = table->origin;
        outer.entries.push_back({shorthand, table->origin, *table});
        wrapped = std::move(outer);
        table = &wrapped;
    }
    if (table && table->type != Node::Type::kTable)
        throw config_error(table->origin, path + " must be a table" + (shorthand ? " or a string" : "") +
                                              ", not " + type_name(table->type));
    if (table)
        for (const Node::Entry &entry : table->entries) {
            std::vector<std::string> names;
            bool known = false;
            for (uint32_t i = 0; i < count; ++i) {
                names.emplace_back(options[i].name);
                known = known || entry.key == options[i].name;
            }
            if (known || (keep_unknown_tables && entry.value.type == Node::Type::kTable)) continue;
            const std::string full = path.empty() ? quote_key(entry.key) : path + "." + quote_key(entry.key);
            throw config_error(entry.key_origin, "unknown key " + full + did_you_mean(entry.key, names));
        }
    std::vector<gantry_value> items;
    std::vector<const char *> keys;
    for (uint32_t i = 0; i < count; ++i) {
        const gantry_option &option = options[i];
        const std::string full = path.empty() ? option.name : path + "." + option.name;
        const Node::Entry *entry = table ? table->find(option.name) : nullptr;
        if (entry) {
            items.push_back(judge(option, entry->value, full, arena));
        } else if (option.default_toml) {
            items.push_back(
                judge(option, parse_value(option.default_toml, "default of " + full), full, arena));
        } else if (option.flags & GANTRY_OPTION_REQUIRED) {
            throw config_error(table ? table->origin : Origin{"configuration", 0, 0},
                               full + " is required: " + option.doc);
        } else {
            continue;
        }
        keys.push_back(option.name);
    }
    gantry_value value{};
    value.type = GANTRY_TYPE_TABLE;
    value.count = static_cast<uint32_t>(items.size());
    value.items = arena.values.emplace_back(std::move(items)).data();
    value.keys = arena.keys.emplace_back(std::move(keys)).data();
    return value;
}

bool parse_duration(const std::string &text, int64_t &nanoseconds) {
    double total = 0;
    size_t at = 0;
    if (text.empty() || text.size() > 64) return false;
    if (text == "0") {
        nanoseconds = 0;
        return true;
    }
    while (at < text.size())
        if (!parse_part(text, at, kTimes, total)) return false;
    nanoseconds = static_cast<int64_t>(total);
    return true;
}

bool parse_size(const std::string &text, int64_t &bytes) {
    double total = 0;
    size_t at = 0;
    if (text.empty() || text.size() > 64 || !parse_part(text, at, kSizes, total) || at != text.size())
        return false;
    bytes = static_cast<int64_t>(total);
    return true;
}

std::string format_duration(int64_t ns) {
    if (ns == 0) return "0s";
    std::string out;
    for (const auto &[name, unit] :
         {std::pair{"h", 3600000000000ll}, std::pair{"m", 60000000000ll}, std::pair{"s", 1000000000ll},
          std::pair{"ms", 1000000ll}, std::pair{"us", 1000ll}, std::pair{"ns", 1ll}})
        if (ns >= unit) {
            out += std::to_string(ns / unit) + name;
            ns %= unit;
        }
    return out;
}

std::string format_size(int64_t bytes) {
    for (const auto &[name, unit] : {std::pair{"TiB", 1ll << 40}, std::pair{"GiB", 1ll << 30},
                                     std::pair{"MiB", 1ll << 20}, std::pair{"KiB", 1ll << 10}})
        if (bytes >= unit && bytes % unit == 0) return std::to_string(bytes / unit) + name;
    return std::to_string(bytes);
}

std::string show_bound_text(const gantry_option &option, int64_t value) {
    if (option.type == GANTRY_TYPE_DURATION) return format_duration(value);
    if (option.type == GANTRY_TYPE_SIZE) return format_size(value);
    return std::to_string(value);
}

std::string quote(const std::string &text) {
    std::string out = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\')
            out += std::string("\\") + c;
        else if (c == '\n')
            out += "\\n";
        else if (c == '\t')
            out += "\\t";
        else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
            out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        else
            out += c;
    }
    return out + "\"";
}

std::string quote_key(const std::string &key) {
    const bool bare = !key.empty() && std::all_of(key.begin(), key.end(), [](unsigned char c) {
        return std::isalnum(c) || c == '_' || c == '-';
    });
    return bare ? key : quote(key);
}

std::string render_value(const gantry_value &value, const gantry_option &option) {
    if (option.flags & GANTRY_OPTION_SECRET)
        return value.type == GANTRY_TYPE_STRING && *value.as.s == 0 ? "\"\"" : "\"***\"";
    switch (value.type) {
    case GANTRY_TYPE_BOOL: return value.as.b ? "true" : "false";
    case GANTRY_TYPE_INT: return std::to_string(value.as.i);
    case GANTRY_TYPE_FLOAT: return fmt::format("{}", value.as.f);
    case GANTRY_TYPE_STRING: return quote(value.as.s);
    case GANTRY_TYPE_DURATION: return quote(format_duration(value.as.i));
    case GANTRY_TYPE_SIZE: return quote(format_size(value.as.i));
    case GANTRY_TYPE_LIST: {
        std::vector<std::string> parts;
        for (uint32_t i = 0; i < value.count; ++i)
            parts.push_back(render_value(value.items[i], option.children[0]));
        return fmt::format("[{}]", fmt::join(parts, ", "));
    }
    case GANTRY_TYPE_MAP:
    case GANTRY_TYPE_TABLE: {
        std::vector<std::string> parts;
        for (uint32_t i = 0; i < value.count; ++i) {
            const gantry_option *child = option.children;
            if (value.type == GANTRY_TYPE_TABLE)
                for (uint32_t c = 0; c < option.child_count; ++c)
                    if (std::string_view(option.children[c].name) == value.keys[i])
                        child = &option.children[c];
            parts.push_back(quote_key(value.keys[i]) + " = " + render_value(value.items[i], *child));
        }
        return parts.empty() ? "{}" : fmt::format("{{ {} }}", fmt::join(parts, ", "));
    }
    }
    return "";
}

std::string did_you_mean(const std::string &word, const std::vector<std::string> &candidates) {
    if (word.size() > 64) return {};
    std::string best;
    size_t best_distance = std::max<size_t>(1, std::min<size_t>(3, word.size() / 2)) + 1;
    for (const std::string &candidate : candidates) {
        std::vector<size_t> row(candidate.size() + 1);
        for (size_t j = 0; j <= candidate.size(); ++j)
            row[j] = j;
        for (size_t i = 1; i <= word.size(); ++i) {
            size_t diagonal = row[0];
            row[0] = i;
            for (size_t j = 1; j <= candidate.size(); ++j) {
                const size_t up = row[j];
                row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (word[i - 1] != candidate[j - 1])});
                diagonal = up;
            }
        }
        if (row.back() < best_distance) {
            best_distance = row.back();
            best = candidate;
        }
    }
    return best.empty() ? "" : "; did you mean '" + best + "'?";
}

} // namespace gantry
