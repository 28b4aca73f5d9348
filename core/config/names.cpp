// A misspelt pattern would be a rule that never applies, which nobody notices until it matters. So patterns
// are taken apart here, and what cannot be the name of an image is refused with the likely meaning.
#include "core/config/names.h"

#include "core/config/judge.h"

#include <algorithm>
#include <fmt/format.h>

namespace gantry {
namespace {

constexpr size_t kMaxKeys = 64;

/// The rule of references (core/image/reference.cpp): this is a registry and no part of a path.
bool is_registry(std::string_view head) {
    return head.find_first_of(".:") != head.npos || head == "localhost" ||
           std::any_of(head.begin(), head.end(), [](char c) { return c >= 'A' && c <= 'Z'; });
}

bool is_host(std::string_view host) {
    if (host.empty() || host.front() == '-' || host.front() == '.') return false;
    return std::all_of(host.begin(), host.end(), [](unsigned char c) {
        return std::isalnum(c) || c == '.' || c == '-' || c == ':' || c == '[' || c == ']';
    });
}

bool is_repository(std::string_view path) {
    for (size_t from = 0; from <= path.size();) {
        const size_t end = std::min(path.find('/', from), path.size());
        const std::string_view part = path.substr(from, end - from);
        if (part.empty() || !std::isalnum(static_cast<unsigned char>(part.front())) ||
            !std::isalnum(static_cast<unsigned char>(part.back())))
            return false;
        for (const char c : part)
            if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '.' && c != '_' && c != '-')
                return false;
        from = end + 1;
    }
    return true;
}

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
    return text;
}

const Node::Entry *entry_of(const Node *table, const std::string &key) {
    return table && table->type == Node::Type::kTable ? table->find(key) : nullptr;
}

/// Where `key` of `table` was written; the table's own place when that is not known (a flag).
Origin place_of(const Node *table, const std::string &key, bool of_key = false) {
    const Node::Entry *entry = entry_of(table, key);
    if (entry) return of_key ? entry->key_origin : entry->value.origin;
    return table ? table->origin : Origin{"default", 0, 0};
}

bool cut_star(std::string &text) {
    if (!text.ends_with("/*")) return false;
    text.resize(text.size() - 2);
    return true;
}

/// host, repository and below of rule.pattern.
void take_apart(TrustRule &rule) {
    const auto refuse = [&](const std::string &why, const std::string &hint = {}) {
        throw config_error(rule.origin, "trust.rules." + quote(rule.pattern) + " is no pattern: " + why,
                           hint.empty() ? "patterns are \"*\", \"REGISTRY\", \"*.DOMAIN\", "
                                          "\"REGISTRY/REPOSITORY\" and \"REGISTRY/PATH/*\""
                                        : hint);
    };
    if (rule.pattern == "*") return;
    const size_t slash = rule.pattern.find('/');
    rule.host = rule.pattern.substr(0, slash);
    rule.repository = slash == std::string::npos ? "" : rule.pattern.substr(slash + 1);
    if (rule.host.starts_with("*.")) {
        if (!is_host(rule.host.substr(2))) refuse("a domain must follow *.");
        rule.host = rule.host.substr(1);
    } else if (rule.host == "*") {
        rule.host.clear();
        if (rule.repository != "*" && !rule.repository.empty())
            refuse("a repository of every registry cannot be named");
    } else if (!is_registry(rule.host)) {
        const std::string path = rule.pattern.find('/') == std::string::npos ? "library/" : "";
        refuse("'" + rule.host + "' is no registry", "images of Docker Hub are docker.io/" + path +
                                                         rule.pattern + ", those below a path docker.io/" +
                                                         "PATH/*");
    } else if (!is_host(rule.host)) {
        refuse("'" + rule.host + "' is no registry");
    }
    rule.host = lower(rule.host);
    if (rule.host == "index.docker.io") rule.host = "docker.io";
    if (rule.repository == "*") rule.repository.clear();
    if (rule.repository.empty()) {
        if (rule.pattern.ends_with("/") && slash != std::string::npos) refuse("nothing follows the /");
        return;
    }
    rule.below = cut_star(rule.repository);
    if (const size_t at = rule.repository.find_first_of(":@"); at != std::string::npos)
        refuse("rules are for repositories, not for tags or digests");
    if (!is_repository(rule.repository)) refuse("'" + rule.repository + "' is no repository");
    if (rule.host == "docker.io" && !rule.below && rule.repository.find('/') == std::string::npos)
        refuse("no image of Docker Hub is called so", "docker.io/library/" + rule.repository +
                                                          " is one image, docker.io/" + rule.repository +
                                                          "/* are all of a user");
}

/// The host counts more than the path, an exact name more than what is below it.
bool more_specific(const TrustRule &a, const TrustRule &b) {
    const auto rank = [](const TrustRule &r) {
        const int host = r.host.empty() ? 0 : r.host[0] == '.' ? 1 : 2;
        return std::tuple(host, r.host.size(), !r.repository.empty() && !r.below, r.repository.size());
    };
    return rank(a) > rank(b);
}

TrustRequire require_of(const std::string &word) {
    return word == "accept"      ? TrustRequire::kAccept
           : word == "digest"    ? TrustRequire::kDigest
           : word == "signature" ? TrustRequire::kSignature
                                 : TrustRequire::kRefuse;
}

TrustRule read_rule(const Config &table, const Node *node, const char *require) {
    TrustRule out;
    out.origin = node ? node->origin : Origin{"default", 0, 0};
    out.require = require_of(table.string(require));
    const std::string match = table.string("match");
    out.match = match == "any"     ? TrustMatch::kAny
                : match == "exact" ? TrustMatch::kExact
                                   : TrustMatch::kRepository;
    out.threshold = static_cast<uint32_t>(table.integer("threshold"));
    out.reason = table.string("reason");
    const Node::Entry *list = entry_of(node, "keys");
    const std::vector<std::string> files = table.strings("keys");
    for (size_t i = 0; i < files.size(); ++i) {
        TrustKey key{files[i], list ? list->value.origin : out.origin};
        if (list && i < list->value.items.size()) key.origin = list->value.items[i].origin;
        if (key.file.empty() || key.file[0] != '/')
            throw config_error(key.origin, "a key must be an absolute path, not '" + key.file + "'");
        out.keys.push_back(std::move(key));
    }
    if (out.keys.size() > kMaxKeys)
        throw config_error(out.origin, fmt::format("a rule of trust can have {} keys at most", kMaxKeys));
    return out;
}

void want_keys(const TrustRule &rule, const std::string &name) {
    if (rule.require == TrustRequire::kSignature && rule.keys.empty())
        throw config_error(rule.origin, name + " requires a signature, but no key is given",
                           "keys = [\"/etc/gantry/keys/NAME.pub\"] in it or in [trust]");
}

} // namespace

std::vector<std::pair<std::string, std::string>> judge_short_names(const Config &map, const Node *table) {
    std::vector<std::pair<std::string, std::string>> out;
    if (!table) return out;
    for (uint32_t i = 0; i < map.count(); ++i) {
        const std::string key = map.key(i), value = map.item(i).as_string();
        const std::string path = "registry.short_names." + quote_key(key);
        std::string from = key, to = value;
        const bool below = cut_star(from), to_below = cut_star(to);
        if (!is_repository(from))
            throw config_error(place_of(table, key, true),
                               path + ": the key must be a name like redis or team/*, without tag");
        if (is_registry(from.substr(0, from.find('/'))) && from.find('/') != std::string::npos)
            throw config_error(place_of(table, key, true),
                               path + ": a name with a registry is complete, it stands for nothing else",
                               "to fetch its bytes from elsewhere configure a mirror");
        const size_t slash = to.find('/');
        const std::string host = to.substr(0, slash);
        if (slash == std::string::npos || !is_registry(host) || !is_host(host) ||
            !is_repository(to.substr(slash + 1)))
            throw config_error(place_of(table, key),
                               path + " must be REGISTRY/REPOSITORY without tag, not '" + value + "'");
        if (below != to_below)
            throw config_error(place_of(table, key), path + ": either both sides end in /* or none of them");
        out.emplace_back(key, value);
    }
    // An exact name counts more than what is below a path, a longer path more than a shorter one.
    std::sort(out.begin(), out.end(), [](const auto &a, const auto &b) {
        return std::pair(!a.first.ends_with("/*"), a.first.size()) >
               std::pair(!b.first.ends_with("/*"), b.first.size());
    });
    return out;
}

TrustConfig judge_trust(const Config &trust, const Node *section) {
    TrustConfig out;
    out.fallback = read_rule(trust, section, "default");
    want_keys(out.fallback, "trust.default");
    const Node::Entry *rules = entry_of(section, "rules");
    if (!trust.has("rules")) return out;
    const Config map = trust.child("rules");
    for (uint32_t i = 0; i < map.count(); ++i) {
        const Node::Entry *entry = entry_of(rules ? &rules->value : nullptr, map.key(i));
        TrustRule rule = read_rule(map.item(i), entry ? &entry->value : nullptr, "require");
        rule.pattern = map.key(i);
        if (entry) rule.origin = entry->key_origin;
        take_apart(rule);
        if (rule.keys.empty()) rule.keys = out.fallback.keys;
        want_keys(rule, "trust.rules." + quote(rule.pattern));
        for (const TrustRule &other : out.rules)
            if (other.host == rule.host && other.repository == rule.repository && other.below == rule.below)
                throw config_error(rule.origin, "trust.rules." + quote(rule.pattern) + " says the same as " +
                                                    quote(other.pattern));
        out.rules.push_back(std::move(rule));
    }
    std::sort(out.rules.begin(), out.rules.end(), more_specific);
    return out;
}

} // namespace gantry
