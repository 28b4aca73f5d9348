// A configuration file as a plain tree in which every value and key knows where it was written. It
// keeps toml++ (slow to compile, and a third party) inside one file and makes merging trivial.
#pragma once

#include "core/config/config.h"

#include <gantry/error.hpp>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace gantry {

struct Node {
    enum class Type { kBool, kInt, kFloat, kString, kDate, kList, kTable, kRaw };
    struct Entry;

    Type type = Type::kTable;
    bool b = false;
    int64_t i = 0;
    double f = 0;
    std::string s; // kString, and kRaw: a flag's text whose type the schema decides
    std::vector<Node> items;
    std::vector<Entry> entries;
    Origin origin;

    const Entry *find(std::string_view key) const;
    Node *child(std::string_view key);
};

struct Node::Entry {
    std::string key;
    Origin key_origin;
    Node value;
};

const char *type_name(Node::Type type);

/// A whole document. Throws kInvalidArgument "FILE:LINE:COLUMN: ...".
Node parse_document(const std::string &text, const std::string &source);
/// One TOML value, e.g. a schema's default.
Node parse_value(const std::string &text, const std::string &source);
/// Tables are merged key by key, everything else is replaced.
void merge(Node &into, Node &&from);
/// Sets the dotted key to a kRaw node.
void set_flag(Node &root, const std::string &dotted_key, const std::string &text);

/// kInvalidArgument with the place in front.
Error config_error(const Origin &where, const std::string &message, const std::string &hint = {});

} // namespace gantry
