// Docker's daemon.json as gantry.toml. What has no counterpart is said so in a comment: silence would
// look like success.
#include "core/config/judge.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <fmt/format.h>
#include <map>

namespace gantry {
namespace {

namespace json = boost::json;
constexpr size_t kLimit = 1u << 20;

json::value parse(const std::string &text, const std::string &file) {
    if (text.size() > kLimit)
        throw Error(ErrorClass::kInvalidArgument, "read " + file + ": larger than 1 MiB");
    json::stream_parser parser;
    boost::system::error_code ec;
    size_t at = parser.write_some(text, ec);
    if (!ec && text.find_first_not_of(" \t\r\n", at) != std::string::npos) ec = json::error::extra_data;
    if (!ec) parser.finish(ec);
    if (ec) {
        at = std::min(at, text.size());
        const size_t line = std::count(text.begin(), text.begin() + at, '\n') + 1;
        const size_t start = at == 0 ? std::string::npos : text.rfind('\n', at - 1);
        throw config_error({file, static_cast<uint32_t>(line),
                            static_cast<uint32_t>(start == std::string::npos ? at + 1 : at - start)},
                           "malformed JSON: " + ec.message());
    }
    return parser.release();
}

std::string strip_scheme(const std::string &url) {
    const size_t at = url.find("://");
    std::string host = at == std::string::npos ? url : url.substr(at + 3);
    return host.substr(0, host.find('/'));
}

class Import {
  public:
    explicit Import(std::string file) : file_(std::move(file)) {}

    std::string run(const json::object &from) {
        for (const auto &member : from)
            one(std::string(member.key()), member.value());
        std::string out = "# Made from " + file_ + " by gantry config import-docker.\n";
        for (const auto &[table, lines] : tables_) {
            if (!table.empty()) out += "\n[" + table + "]\n";
            for (const std::string &line : lines)
                out += line + "\n";
        }
        if (!notes_.empty()) out += "\n";
        for (const std::string &note : notes_)
            out += "# " + note + "\n";
        return out;
    }

  private:
    std::string text(const std::string &key, const json::value &v) const {
        if (!v.is_string()) throw wrong(key, "a string");
        return std::string(v.as_string());
    }
    std::vector<std::string> list(const std::string &key, const json::value &v) const {
        if (!v.is_array()) throw wrong(key, "a list of strings");
        std::vector<std::string> out;
        for (const json::value &item : v.as_array())
            out.push_back(text(key, item));
        return out;
    }
    Error wrong(const std::string &key, const char *want) const {
        return {ErrorClass::kInvalidArgument, file_ + ": \"" + key + "\" must be " + want};
    }
    void put(const std::string &table, const std::string &key, const std::string &value) {
        auto &lines = tables_[table]; // "debug" after "log-level": the later one holds, TOML forbids both
        std::erase_if(lines, [&](const std::string &line) { return line.starts_with(key + " = "); });
        lines.push_back(key + " = " + value);
    }
    static std::string quoted(const std::vector<std::string> &items) {
        std::vector<std::string> out;
        for (const std::string &item : items)
            out.push_back(quote(item));
        return fmt::format("[{}]", fmt::join(out, ", "));
    }
    void none(const std::string &key, const json::value &v, const std::string &why = "no counterpart") {
        std::string shown = json::serialize(v);
        if (shown.size() > 200) shown = shown.substr(0, 200) + "...";
        notes_.push_back(quote(key) + ": " + shown + " : " + why);
    }

    void one(const std::string &key, const json::value &v) {
        if (key == "registry-mirrors") {
            put("registry.oci.hosts.\"docker.io\"", "mirrors", quoted(list(key, v)));
        } else if (key == "insecure-registries") {
            for (const std::string &entry : list(key, v)) {
                if (entry.find('/') != std::string::npos && entry.find("://") == std::string::npos)
                    none(key, json::value(entry), "a network range has no counterpart; name the hosts");
                else
                    put("registry.oci.hosts." + quote(strip_scheme(entry)), "skip_verify",
                        "true # plain_http = true when it speaks no TLS");
            }
        } else if (key == "storage-driver") {
            const std::string name = text(key, v);
            const std::map<std::string, std::string> known{{"overlay2", "overlay"},
                                                           {"overlay", "overlay"},
                                                           {"vfs", "vfs"},
                                                           {"btrfs", "btrfs"},
                                                           {"aufs", "aufs"}};
            if (const auto it = known.find(name); it != known.end())
                put("storage", "driver", quote(it->second));
            else
                none(key, v);
        } else if (key == "bip") {
            // Docker gives the bridge's own address with the prefix; both facts have a key here.
            put("network.bridge", "subnet", quote(network_of(text(key, v))));
        } else if (key == "log-opts") {
            if (!v.is_object()) throw wrong(key, "an object");
            for (const auto &m : v.as_object()) {
                const std::string name(m.key());
                int64_t number = 0;
                if (name == "max-size") {
                    const std::string size = text(name, m.value());
                    if (!parse_size(size, number)) throw wrong("log-opts.max-size", "a size");
                    put("engine", "log_max_size", quote(format_size(number)));
                } else if (name == "max-file") {
                    const std::string files =
                        m.value().is_int64() ? std::to_string(m.value().as_int64()) : text(name, m.value());
                    if (files.empty() || files.size() > 4 ||
                        files.find_first_not_of("0123456789") != std::string::npos)
                        throw wrong("log-opts.max-file", "a number");
                    put("engine", "log_max_files", files);
                } else {
                    none("log-opts." + name, m.value());
                }
            }
        } else if (key == "log-driver") {
            if (text(key, v) == "json-file") return;
            none(key, v, "no counterpart; logs are kept as json-file");
        } else if (key == "data-root" || key == "graph") {
            put("engine", "root", quote(text(key, v)));
            notes_.push_back(
                "engine.root: Docker's images and containers there are not converted; a directory of "
                "its own is advised.");
        } else if (key == "hosts") {
            bool taken = false;
            for (const std::string &host : list(key, v)) {
                if (host.starts_with("unix://") && !taken) {
                    put("engine", "socket", quote(host.substr(7)));
                    taken = true;
                } else if (host.starts_with("fd://")) {
                    none(key, json::value(host), "use gantry.socket of systemd");
                } else {
                    none(key, json::value(host));
                }
            }
        } else if (key == "group") {
            put("engine", "socket_group", quote(text(key, v)));
        } else if (key == "dns") {
            put("engine", "dns", quoted(list(key, v)));
        } else if (key == "max-concurrent-downloads" || key == "max-concurrent-uploads") {
            if (!v.is_int64() || v.as_int64() < 1 || v.as_int64() > 64)
                return none(key, v, "must be 1 to 64");
            put("registry",
                key == "max-concurrent-uploads" ? "max_parallel_uploads" : "max_parallel_downloads",
                std::to_string(v.as_int64()));
        } else if (key == "cgroup-parent") {
            const std::string parent = text(key, v);
            put("engine", "cgroup_parent", quote(parent.starts_with("/") ? parent : "/" + parent));
        } else if (key == "log-level") {
            const std::string level = text(key, v);
            put("engine", "log_level",
                quote(level == "fatal"     ? "error"
                      : level == "warning" ? "warn"
                                           : level));
        } else if (key == "debug") {
            if (v.is_bool() && v.as_bool()) put("engine", "log_level", quote("debug"));
        } else if (key == "live-restore") {
            none(key, v, "containers always outlive the engine; nothing to set");
        } else {
            none(key, v);
        }
    }

    std::string network_of(const std::string &cidr) const {
        unsigned a, b, c, d, bits;
        char rest;
        if (std::sscanf(cidr.c_str(), "%3u.%3u.%3u.%3u/%2u%c", &a, &b, &c, &d, &bits, &rest) != 5 ||
            a > 255 || b > 255 || c > 255 || d > 255 || bits < 1 || bits > 30)
            throw wrong("bip", "an address with prefix like 10.1.0.1/24");
        const uint32_t address = (a << 24 | b << 16 | c << 8 | d) & ~uint32_t((1ull << (32 - bits)) - 1);
        return fmt::format("{}.{}.{}.{}/{}", address >> 24, address >> 16 & 255, address >> 8 & 255,
                           address & 255, bits);
    }

    std::string file_;
    std::map<std::string, std::vector<std::string>> tables_;
    std::vector<std::string> notes_;
};

} // namespace

std::string import_docker_config(const std::string &json_text, const std::string &file) {
    const json::value root = parse(json_text, file);
    if (!root.is_object()) throw config_error({file, 1, 1}, "must be a JSON object");
    return Import(file).run(root.as_object());
}

} // namespace gantry
