// The evaluator. Missing names: a field in capitals that the data lacks is an error, as Go says for a struct
// (it is a typing mistake, and a script must see it), in the condition of if and with it is false; a lower
// case key is a map's and gives "<no value>".
#include "core/cli/template_tree.h"

#include "core/cli/format.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <optional>

namespace gantry::cli {

namespace json = boost::json;

namespace {

using Node = Template::Node;

bool truthy(const json::value &value) {
    switch (value.kind()) {
    case json::kind::null: return false;
    case json::kind::bool_: return value.get_bool();
    case json::kind::int64: return value.get_int64() != 0;
    case json::kind::uint64: return value.get_uint64() != 0;
    case json::kind::double_: return value.get_double() != 0;
    case json::kind::string: return !value.get_string().empty();
    case json::kind::array: return !value.get_array().empty();
    case json::kind::object: return !value.get_object().empty();
    }
    return false;
}

std::string text_of(const json::value &value) {
    return value.is_string() ? std::string(value.get_string()) : format_value(value);
}

int64_t integer_of(const json::value &value) {
    if (value.is_int64()) return value.get_int64();
    if (value.is_uint64()) return static_cast<int64_t>(value.get_uint64());
    if (value.is_double() && std::abs(value.get_double()) < 9e18) // beyond, the conversion is undefined
        return static_cast<int64_t>(value.get_double());
    throw TemplateError("template: expected a number, got " + format_value(value));
}

std::string format_printf(const std::vector<json::value> &args) {
    if (args.empty()) throw TemplateError("template: printf needs a format");
    std::string format = text_of(args[0]), result;
    size_t next = 1;
    for (size_t i = 0; i < format.size(); ++i) {
        if (format[i] != '%') {
            result += format[i];
            continue;
        }
        if (i + 1 < format.size() && format[i + 1] == '%') {
            result += '%';
            ++i;
            continue;
        }
        size_t begin = i++;
        while (i < format.size() &&
               std::string_view("-+ .#0123456789").find(format[i]) != std::string_view::npos)
            ++i;
        if (i >= format.size()) return result + "%!(NOVERB)";
        std::string spec = format.substr(begin, i - begin);
        char verb = format[i];
        if (next >= args.size()) {
            result += std::string("%!") + verb + "(MISSING)";
            continue;
        }
        if (spec.size() > 8) throw TemplateError("template: printf width is too long");
        const json::value &arg = args[next++];
        char buffer[1200]; // width and precision have at most 7 digits together with their flags
        std::string text = text_of(arg);
        if (verb == 'q') text = json::serialize(json::value(text));
        if (verb == 'd' || verb == 'x' || verb == 'X' || verb == 'c' || verb == 'o') {
            std::string conversion = verb == 'c' ? spec + "c" : spec + "ll" + verb;
            if (verb == 'c')
                snprintf(buffer, sizeof buffer, conversion.c_str(), static_cast<int>(integer_of(arg)));
            else
                snprintf(buffer, sizeof buffer, conversion.c_str(), static_cast<long long>(integer_of(arg)));
            result += buffer;
        } else if (verb == 'f' || verb == 'g' || verb == 'e') {
            snprintf(buffer, sizeof buffer, (spec + verb).c_str(),
                     arg.is_double() ? arg.get_double() : static_cast<double>(integer_of(arg)));
            result += buffer;
        } else {
            // Padding by code points, as Go does; a precision cuts.
            std::string flags = spec.substr(1);
            bool left = flags.starts_with("-");
            auto number = [&](size_t from) { // 0 for none and for more than anybody can mean
                size_t value = 0;
                std::from_chars(flags.data() + from, flags.data() + flags.size(), value);
                return value;
            };
            if (size_t dot = flags.find('.'); dot != std::string::npos)
                text = text.substr(0, number(dot + 1));
            size_t pad = number(left ? 1 : 0);
            if (pad >= 1000) pad = 0;
            size_t have = display_width(text);
            pad = pad > have ? pad - have : 0;
            result += left ? text + std::string(pad, ' ') : std::string(pad, ' ') + text;
        }
    }
    return result;
}

int compare(const json::value &a, const json::value &b) {
    if (a.is_string() && b.is_string()) return std::string_view(a.get_string()).compare(b.get_string());
    if (a.is_number() && b.is_number()) {
        double x = a.to_number<double>(), y = b.to_number<double>();
        return x < y ? -1 : x > y;
    }
    throw TemplateError("template: incompatible types for comparison");
}

class Evaluator {
  public:
    explicit Evaluator(const json::value &data) { variables_.emplace_back("$", data); }

    void run(const std::vector<Node> &nodes, const json::value &dot) {
        for (const Node &node : nodes)
            run(node, dot);
    }

    std::string output;

  private:
    void run(const Node &node, const json::value &dot) {
        size_t scope = variables_.size();
        switch (node.kind) {
        case Node::Kind::kText: output += node.text; return;
        case Node::Kind::kList: run(node.children, dot); return;
        case Node::Kind::kAction: {
            json::value value = evaluate(node.pipeline, dot, false);
            if (node.pipeline.variables.empty()) output += text_of(value);
            return; // a variable lives on to the end of the enclosing block
        }
        case Node::Kind::kIf:
        case Node::Kind::kWith: {
            json::value value = evaluate(node.pipeline, dot, true);
            if (truthy(value))
                run(node.children, node.kind == Node::Kind::kWith ? value : dot);
            else
                run(node.otherwise, dot);
            break;
        }
        case Node::Kind::kRange: run_range(node, dot); break;
        }
        variables_.resize(scope, {"", nullptr});
    }

    void run_range(const Node &node, const json::value &dot) {
        Pipeline const &pipeline = node.pipeline;
        json::value value = evaluate_commands(pipeline, dot, true);
        auto once = [&](json::value key, const json::value &element) {
            size_t scope = variables_.size();
            if (pipeline.variables.size() == 2)
                variables_.emplace_back(pipeline.variables[0], std::move(key));
            if (!pipeline.variables.empty()) variables_.emplace_back(pipeline.variables.back(), element);
            run(node.children, element);
            variables_.resize(scope, {"", nullptr});
        };
        if (!truthy(value)) return run(node.otherwise, dot);
        if (value.is_array()) {
            int64_t index = 0;
            for (const json::value &element : value.get_array())
                once(index++, element);
        } else if (value.is_object()) { // in the order of the keys, as Go does
            std::vector<const json::key_value_pair *> pairs;
            for (const auto &pair : value.get_object())
                pairs.push_back(&pair);
            std::sort(pairs.begin(), pairs.end(), [](auto *a, auto *b) { return a->key() < b->key(); });
            for (auto *pair : pairs)
                once(json::value(pair->key()), pair->value());
        } else {
            throw TemplateError("template: range can't iterate over " + format_value(value));
        }
    }

    json::value evaluate(const Pipeline &pipeline, const json::value &dot, bool lenient) {
        json::value value = evaluate_commands(pipeline, dot, lenient);
        for (const std::string &name : pipeline.variables) {
            if (pipeline.assign)
                lookup(name) = value;
            else
                variables_.emplace_back(name, value);
        }
        return value;
    }

    json::value evaluate_commands(const Pipeline &pipeline, const json::value &dot, bool lenient) {
        json::value value;
        bool piped = false;
        for (const Command &command : pipeline.commands) {
            const Operand &first = command.operands[0];
            if (first.kind == Operand::Kind::kFunction) {
                // `and` and `or` guard what they test, so their operands may be absent.
                bool soft = lenient || first.name == "and" || first.name == "or" || first.name == "not";
                std::vector<json::value> args;
                for (size_t i = 1; i < command.operands.size(); ++i)
                    args.push_back(evaluate(command.operands[i], dot, soft));
                if (piped) args.push_back(std::move(value));
                value = call(first.name, args);
            } else {
                if (command.operands.size() > 1 || piped)
                    throw TemplateError("template: can't give argument to non-function " + first.name);
                value = evaluate(first, dot, lenient);
            }
            piped = true;
        }
        return value;
    }

    json::value evaluate(const Operand &operand, const json::value &dot, bool lenient) {
        json::value base;
        switch (operand.kind) {
        case Operand::Kind::kLiteral: return operand.literal;
        case Operand::Kind::kFunction: return call(operand.name, {});
        case Operand::Kind::kField: return follow(dot, operand.path, lenient);
        case Operand::Kind::kVariable: return follow(lookup(operand.name), operand.path, lenient);
        case Operand::Kind::kPipeline:
            base = evaluate_commands(*operand.pipeline, dot, lenient);
            return follow(base, operand.path, lenient);
        }
        return base;
    }

    json::value follow(const json::value &base, const std::vector<std::string> &path, bool lenient) {
        const json::value *at = &base;
        for (const std::string &field : path) {
            const json::value *next = at->is_object() ? at->get_object().if_contains(field) : nullptr;
            if (!next) {
                bool map_key = islower(static_cast<unsigned char>(field[0])) && at->is_object();
                if (lenient || map_key) return nullptr;
                throw TemplateError("template parsing error: template: :1: executing \"\" at <." + field +
                                    ">: " +
                                    (at->is_object() ? "map has no entry for key \"" + field + "\""
                                     : at->is_null() ? "nil data; no entry for key \"" + field + "\""
                                                     : "can't evaluate field " + field));
            }
            at = next;
        }
        return *at;
    }

    json::value &lookup(const std::string &name) {
        for (size_t i = variables_.size(); i-- > 0;)
            if (variables_[i].first == name) return variables_[i].second;
        throw TemplateError("template parsing error: template: :1: undefined variable \"" + name + "\"");
    }

    static json::value call(const std::string &name, const std::vector<json::value> &args);

    std::vector<std::pair<std::string, json::value>> variables_;
};

json::value index_value(const std::vector<json::value> &args) {
    const json::value *at = &args.at(0);
    for (size_t i = 1; i < args.size(); ++i) {
        if (at->is_object()) {
            at = at->get_object().if_contains(text_of(args[i]));
            if (!at) return json::value(""); // the zero value of a map of strings
        } else if (at->is_array()) {
            int64_t position = integer_of(args[i]);
            if (position < 0 || static_cast<size_t>(position) >= at->get_array().size())
                throw TemplateError("template: error calling index: index out of range: " +
                                    std::to_string(position));
            at = &at->get_array()[static_cast<size_t>(position)];
        } else if (at->is_null()) {
            return nullptr;
        } else {
            throw TemplateError("template: error calling index: can't index item of type string");
        }
    }
    return *at;
}

json::value Evaluator::call(const std::string &name, const std::vector<json::value> &args) {
    auto need = [&](size_t least, size_t most) {
        if (args.size() < least || args.size() > most)
            throw TemplateError("template: wrong number of args for " + name + ": got " +
                                std::to_string(args.size()));
    };
    constexpr size_t kAny = 1000;
    if (name == "json") {
        need(1, 1);
        return json::value(json::serialize(args[0]));
    }
    if (name == "upper" || name == "lower" || name == "title") {
        need(1, 1);
        std::string text = text_of(args[0]);
        for (size_t i = 0; i < text.size(); ++i) {
            auto c = static_cast<unsigned char>(text[i]);
            bool start = i == 0 || text[i - 1] == ' ';
            if (name == "upper" || (name == "title" && start))
                text[i] = static_cast<char>(toupper(c));
            else if (name == "lower")
                text[i] = static_cast<char>(tolower(c));
        }
        return json::value(text);
    }
    if (name == "join") {
        need(2, 2);
        std::string text;
        if (!args[0].is_array() && !args[0].is_null()) throw TemplateError("template: join needs a list");
        if (args[0].is_array())
            for (const json::value &element : args[0].get_array())
                text += (&element == args[0].get_array().begin() ? "" : text_of(args[1])) + text_of(element);
        return json::value(text);
    }
    if (name == "split") {
        need(2, 2);
        std::string text = text_of(args[0]), separator = text_of(args[1]);
        json::array parts;
        for (size_t at = 0;;) {
            size_t end = separator.empty() ? (at + 1 < text.size() ? at + 1 : std::string::npos)
                                           : text.find(separator, at);
            parts.emplace_back(text.substr(at, end == std::string::npos ? end : end - at));
            if (end == std::string::npos) return parts;
            at = end + separator.size();
        }
    }
    if (name == "truncate") {
        need(2, 2);
        return json::value(
            text_of(args[0]).substr(0, static_cast<size_t>(std::max<int64_t>(0, integer_of(args[1])))));
    }
    if (name == "pad") {
        need(3, 3);
        auto blanks = [&](size_t i) {
            return std::string(static_cast<size_t>(std::clamp<int64_t>(integer_of(args[i]), 0, 1000)), ' ');
        };
        return json::value(blanks(1) + text_of(args[0]) + blanks(2));
    }
    if (name == "len") {
        need(1, 1);
        const json::value &value = args[0];
        if (value.is_null()) return 0;
        if (value.is_string()) return static_cast<int64_t>(value.get_string().size());
        if (value.is_array()) return static_cast<int64_t>(value.get_array().size());
        if (value.is_object()) return static_cast<int64_t>(value.get_object().size());
        throw TemplateError("template: error calling len: len of type number");
    }
    if (name == "index") {
        need(1, kAny);
        return index_value(args);
    }
    if (name == "slice") {
        need(1, 3);
        std::string text = text_of(args[0]);
        int64_t begin = args.size() > 1 ? integer_of(args[1]) : 0;
        int64_t end = args.size() > 2 ? integer_of(args[2]) : static_cast<int64_t>(text.size());
        if (begin < 0 || end < begin || end > static_cast<int64_t>(text.size()))
            throw TemplateError("template: error calling slice: index out of range");
        return json::value(text.substr(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
    }
    if (name == "print" || name == "println") {
        std::string text;
        for (size_t i = 0; i < args.size(); ++i) {
            bool blank = i > 0 && (name == "println" || (!args[i].is_string() && !args[i - 1].is_string()));
            text += (blank ? " " : "") + text_of(args[i]);
        }
        return json::value(name == "println" ? text + "\n" : text);
    }
    if (name == "printf") return json::value(format_printf(args));
    if (name == "not") {
        need(1, 1);
        return !truthy(args[0]);
    }
    if (name == "and" || name == "or") {
        need(1, kAny);
        for (const json::value &arg : args)
            if (truthy(arg) == (name == "or")) return arg;
        return args.back();
    }
    if (name == "eq") {
        need(2, kAny);
        for (size_t i = 1; i < args.size(); ++i)
            if (args[0] == args[i]) return true;
        return false;
    }
    if (name == "ne") {
        need(2, 2);
        return args[0] != args[1];
    }
    if (name == "lt" || name == "le" || name == "gt" || name == "ge") {
        need(2, 2);
        int order = compare(args[0], args[1]);
        return name == "lt" ? order < 0 : name == "le" ? order <= 0 : name == "gt" ? order > 0 : order >= 0;
    }
    throw TemplateError("template parsing error: template: :1: function \"" + name + "\" not defined");
}

} // namespace

Template::Template(const std::string &text) : root_(std::make_unique<Node>(parse_template(text))) {}
Template::~Template() = default;
Template::Template(Template &&) noexcept = default;

std::string Template::execute(const json::value &data) const {
    Evaluator evaluator(data);
    evaluator.run(root_->children, data);
    return std::move(evaluator.output);
}

std::string format_value(const json::value &value) {
    switch (value.kind()) {
    case json::kind::null: return "<no value>";
    case json::kind::bool_: return value.get_bool() ? "true" : "false";
    case json::kind::string: return std::string(value.get_string());
    case json::kind::double_: {
        char text[64];
        snprintf(text, sizeof text, "%.17g", value.get_double());
        // The shortest form that reads back the same.
        for (int precision = 1; precision < 17; ++precision) {
            char attempt[64];
            snprintf(attempt, sizeof attempt, "%.*g", precision, value.get_double());
            if (strtod(attempt, nullptr) == value.get_double()) return attempt;
        }
        return text;
    }
    case json::kind::array: {
        std::string text = "[";
        for (const json::value &element : value.get_array())
            text += (text.size() > 1 ? " " : "") + format_value(element);
        return text + "]";
    }
    case json::kind::object: {
        std::vector<std::string> parts;
        for (const auto &pair : value.get_object())
            parts.push_back(std::string(pair.key()) + ":" + format_value(pair.value()));
        std::sort(parts.begin(), parts.end());
        std::string text = "map[";
        for (const std::string &part : parts)
            text += (text.size() > 4 ? " " : "") + part;
        return text + "]";
    }
    default: return json::serialize(value);
    }
}

} // namespace gantry::cli
