// The one user of toml++.
#include "core/config/tree.h"

#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace gantry {
namespace {

constexpr int kMaxDepth = 32;

/// toml++ 3.3 asks of a character outside of strings whether it is a space, and for U+FEB2 to U+FEFE (Arabic
/// presentation forms) its table ends in undefined behaviour. Nobody needs them: refused wherever they stand.
void refuse_what_the_parser_cannot_judge(const std::string &text, const std::string &source) {
    uint32_t line = 1, column = 1;
    for (size_t i = 0; i < text.size(); ++i, ++column) {
        if (text[i] == '\n') ++line, column = 0;
        if (text.compare(i, 1, "\xEF") != 0 || text.size() - i < 3) continue;
        const unsigned point = 0xF000u | (text[i + 1] & 0x3Fu) << 6 | (text[i + 2] & 0x3Fu);
        if (point >= 0xFEB2 && point < 0xFEFF)
            throw config_error({source, line, column}, "a character of the Arabic presentation forms",
                               "write the plain letter, or \\u and its number within a string");
    }
}

Origin origin_of(const toml::source_region &region, const std::string &source) {
    return {source, region.begin.line, region.begin.column};
}

Node convert(const toml::node &from, const std::string &source, int depth) {
    Node node;
    node.origin = origin_of(from.source(), source);
    if (depth > kMaxDepth) throw config_error(node.origin, "tables are nested too deeply");
    if (const auto *table = from.as_table()) {
        for (const auto &[key, value] : *table)
            node.entries.push_back(
                {std::string(key.str()), origin_of(key.source(), source), convert(value, source, depth + 1)});
    } else if (const auto *array = from.as_array()) {
        node.type = Node::Type::kList;
        for (const auto &item : *array)
            node.items.push_back(convert(item, source, depth + 1));
    } else if (const auto *text = from.as_string()) {
        node.type = Node::Type::kString;
        node.s = text->get();
        if (node.s.find('\0') != std::string::npos)
            throw config_error(node.origin, "a string contains a zero character");
    } else if (const auto *integer = from.as_integer()) {
        node.type = Node::Type::kInt;
        node.i = integer->get();
    } else if (const auto *number = from.as_floating_point()) {
        node.type = Node::Type::kFloat;
        node.f = number->get();
    } else if (const auto *boolean = from.as_boolean()) {
        node.type = Node::Type::kBool;
        node.b = boolean->get();
    } else {
        node.type = Node::Type::kDate;
    }
    return node;
}

} // namespace

const char *type_name(Node::Type type) {
    switch (type) {
    case Node::Type::kBool: return "a boolean";
    case Node::Type::kInt: return "an integer";
    case Node::Type::kFloat: return "a number";
    case Node::Type::kString: return "a string";
    case Node::Type::kDate: return "a date";
    case Node::Type::kList: return "a list";
    case Node::Type::kTable: return "a table";
    case Node::Type::kRaw: return "a flag";
    }
    return "nothing";
}

const Node::Entry *Node::find(std::string_view key) const {
    for (const Entry &entry : entries)
        if (entry.key == key) return &entry;
    return nullptr;
}

Node *Node::child(std::string_view key) {
    for (Entry &entry : entries)
        if (entry.key == key) return &entry.value;
    return nullptr;
}

Node parse_document(const std::string &text, const std::string &source) {
    refuse_what_the_parser_cannot_judge(text, source);
    try {
        return convert(toml::parse(std::string_view(text)), source, 0);
    } catch (const toml::parse_error &e) {
        throw config_error(origin_of(e.source(), source), std::string(e.description()));
    }
}

Node parse_value(const std::string &text, const std::string &source) {
    Node document = parse_document("v = " + text + "\n", source);
    if (document.entries.size() != 1)
        throw Error(ErrorClass::kInvalidArgument, source + ": not a single TOML value: " + text);
    return std::move(document.entries[0].value);
}

void merge(Node &into, Node &&from) {
    for (Node::Entry &entry : from.entries) {
        Node *present = into.child(entry.key);
        if (!present)
            into.entries.push_back(std::move(entry));
        else if (present->type == Node::Type::kTable && entry.value.type == Node::Type::kTable)
            merge(*present, std::move(entry.value));
        else
            *present = std::move(entry.value);
    }
}

void set_flag(Node &root, const std::string &dotted_key, const std::string &text) {
    const Origin origin{"flag", 0, 0};
    Node document;
    try {
        document = parse_document(dotted_key + " = 0", "flag");
    } catch (const Error &) {
        throw Error(ErrorClass::kInvalidArgument,
                    "read flag: '" + dotted_key + "' is no option's name (like engine.root)");
    }
    Node *leaf = &document;
    while (leaf->type == Node::Type::kTable && leaf->entries.size() == 1) {
        leaf->origin = origin;
        leaf->entries[0].key_origin = origin;
        leaf = &leaf->entries[0].value;
    }
    leaf->type = Node::Type::kRaw;
    leaf->s = text;
    leaf->origin = origin;
    merge(root, std::move(document));
}

Error config_error(const Origin &where, const std::string &message, const std::string &hint) {
    std::string place = where.source;
    if (where.line) place += ":" + std::to_string(where.line) + ":" + std::to_string(where.column);
    return {ErrorClass::kInvalidArgument, place + ": " + message, hint};
}

} // namespace gantry
