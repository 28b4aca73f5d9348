// Tables and lists in Docker's form: one template drives heading and rows.
#include "core/cli/command.h"
#include "core/cli/format.h"
#include "core/cli/template.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <cstdlib>
#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

bool colour_on(int fd) {
    const char *no_color = getenv("NO_COLOR");
    return !(no_color && *no_color) && isatty(fd);
}

void print_line(const std::string &text) { write_all(1, text + "\n", "standard output"); }

int print_format(const json::value &value, std::string format) {
    if (format == "json") format = "{{json .}}";
    print_line(Template(format).execute(value));
    return 0;
}

json::value snake_keys(const json::value &value, int depth) {
    if (depth > 32) return nullptr;
    if (value.is_array()) {
        json::array result;
        for (const json::value &element : value.get_array())
            result.push_back(snake_keys(element, depth + 1));
        return result;
    }
    if (!value.is_object()) return value;
    json::object result;
    for (const auto &pair : value.get_object()) {
        std::string key;
        for (char c : pair.key()) {
            bool upper = c >= 'A' && c <= 'Z';
            if (upper && !key.empty() && key.back() != '_') key += '_';
            key += upper ? static_cast<char>(c - 'A' + 'a') : c;
        }
        result[key] = snake_keys(pair.value(), depth + 1);
    }
    return result;
}

void print_error(const std::string &message) {
    std::string shown = isatty(2) ? "" : message;
    if (shown.empty())
        for (size_t at = 0; at <= message.size();) { // lines stay, other control characters do not
            size_t end = std::min(message.find('\n', at), message.size());
            shown += (at ? "\n" : "") + printable(std::string_view(message).substr(at, end - at));
            at = end + 1;
        }
    write_all(2, (colour_on(2) ? "\x1b[31m" + shown + "\x1b[0m" : shown) + "\n", "standard error");
}

void print_api_error(const ApiError &error) {
    print_error("Error response from daemon: " + std::string(error.what()));
}

std::string text_at(const json::value &value, std::string_view key) {
    const json::value &found = at(value, key);
    return found.is_string() ? std::string(found.get_string()) : "";
}

int64_t number_at(const json::value &value, std::string_view key) {
    const json::value &found = at(value, key);
    boost::system::error_code error;
    return found.is_number() ? found.to_number<int64_t>(error) : 0;
}

bool bool_at(const json::value &value, std::string_view key) {
    const json::value &found = at(value, key);
    return found.is_bool() && found.get_bool();
}

const json::value &at(const json::value &value, std::string_view key) {
    static const json::value kNull;
    const json::value *found = value.is_object() ? value.get_object().if_contains(key) : nullptr;
    return found ? *found : kNull;
}

const json::array &array_of(const json::value &value) {
    static const json::array kNone;
    return value.is_array() ? value.get_array() : kNone;
}

std::string filter_query(const ParsedFlags &flags) {
    json::object filters;
    for (const std::string &text : flags.list("filter")) {
        size_t equal = text.find('=');
        if (equal == std::string::npos)
            throw FlagError{"invalid argument \"" + text +
                            "\" for \"-f, --filter\" flag: bad format of filter (expected name=value)"};
        std::string key = text.substr(0, equal);
        if (!filters.contains(key)) filters[key] = json::object();
        filters[key].as_object()[text.substr(equal + 1)] = true;
    }
    return filters.empty() ? "" : "filters=" + url_encode(json::serialize(filters));
}

void print_list(const std::vector<json::object> &rows, const ListStyle &style, std::string format) {
    for (auto [from, to] : {std::pair{"\\t", "\t"}, {"\\n", "\n"}})
        for (size_t found; (found = format.find(from)) != std::string::npos;)
            format.replace(found, 2, to);
    bool table = format.empty() || format == "table" || format.starts_with("table ");
    if (format == "json") format = "{{json .}}";
    if (format.starts_with("table "))
        format = format.substr(6);
    else if (table)
        format = style.table;
    Template row_template(format);
    std::vector<std::string> lines;
    if (table) lines.push_back(row_template.execute(style.headers));
    for (const json::object &row : rows)
        lines.push_back(row_template.execute(row));
    std::string text;
    if (table) {
        bool to_terminal = isatty(1);
        if (to_terminal)
            for (std::string &line : lines)
                for (char &c : line)
                    if ((static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\n') || c == 0x7f)
                        c = '?';
        text = align_columns(lines);
    } else {
        for (const std::string &line : lines)
            text += line + "\n";
    }
    write_all(1, text, "standard output");
}

int for_each_argument(const std::vector<std::string> &args,
                      const std::function<void(const std::string &)> &action) {
    int code = 0;
    for (const std::string &arg : args) {
        try {
            action(arg);
        } catch (const ApiError &error) {
            print_api_error(error);
            code = 1;
        }
    }
    return code;
}

} // namespace gantry::cli
