// The small languages inside flag values: ports, mounts, devices, limits, files of variables. Each takes the
// text of one flag and says what is wrong with it in Docker's words.
#include "core/cli/flag_values.h"

#include "core/base/fd.h"
#include "core/cli/flags.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <algorithm>
#include <charconv>
#include <climits>
#include <cstdlib>
#include <fcntl.h>
#include <sys/stat.h>
#include <tuple>
#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

namespace {

[[noreturn]] void fail(const std::string &message) { throw FlagError{message}; }

std::string read_small_file(const std::string &path) {
    UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!fd) fail("open " + path + ": " + strerror(errno));
    try {
        return read_all(fd.get(), 4u << 20, path);
    } catch (const Error &error) {
        fail(error.message());
    }
}

} // namespace

std::vector<std::string> split(const std::string &text, char separator) {
    std::vector<std::string> parts;
    for (size_t at = 0;;) {
        size_t end = text.find(separator, at);
        parts.push_back(text.substr(at, end == std::string::npos ? end : end - at));
        if (end == std::string::npos) return parts;
        at = end + 1;
    }
}

std::pair<int, int> parse_port_range(const std::string &text, const std::string &whole) {
    int first = 0, last = 0;
    const char *end = text.data() + text.size();
    auto [stop, error] = std::from_chars(text.data(), end, first);
    last = first;
    if (error == std::errc() && stop != end && *stop == '-') {
        auto second = std::from_chars(stop + 1, end, last);
        stop = second.ptr;
        error = second.ec;
    }
    if (error != std::errc() || stop != end || first < 0 || last > 65535 || last < first)
        fail("invalid port \"" + text + "\" in \"" + whole + "\"");
    return {first, last};
}

json::value parse_ulimit(const std::string &text) {
    size_t equal = text.find('=');
    if (equal == std::string::npos || equal == 0) fail("invalid ulimit argument: " + text);
    auto values = split(text.substr(equal + 1), ':');
    if (values.size() > 2) fail("invalid ulimit argument: " + text);
    int64_t soft = parse_integer(values[0]);
    int64_t hard = values.size() == 2 ? parse_integer(values[1]) : soft;
    if (hard != -1 && (soft > hard || soft == -1))
        fail("ulimit soft limit must be less than or equal to hard limit: " + text);
    return json::object{{"Name", text.substr(0, equal)}, {"Soft", soft}, {"Hard", hard}};
}

json::value parse_device(const std::string &text) {
    auto parts = split(text, ':');
    auto is_mode = [](const std::string &mode) {
        return !mode.empty() && mode.find_first_not_of("rwm") == std::string::npos;
    };
    std::string source = parts[0], target = source, mode = "rwm";
    if (parts.size() == 3) {
        target = parts[1];
        mode = parts[2];
    } else if (parts.size() == 2) {
        (is_mode(parts[1]) ? mode : target) = parts[1];
    }
    if (parts.size() > 3 || source.empty() || !is_mode(mode)) fail("invalid device specification: " + text);
    return json::object{{"PathOnHost", source}, {"PathInContainer", target}, {"CgroupPermissions", mode}};
}

json::object parse_restart(const std::string &text) {
    auto parts = split(text, ':');
    if (parts.size() > 2) fail("invalid restart policy format: " + text);
    json::object policy{{"Name", parts[0]}, {"MaximumRetryCount", 0}};
    if (parts.size() == 2) {
        if (parts[1].empty() || parts[1].find_first_not_of("0123456789") != std::string::npos)
            fail("invalid restart policy format: maximum retry count must be an integer");
        policy["MaximumRetryCount"] = parse_integer(parts[1]);
    }
    return policy;
}

std::string security_option(const std::string &text) {
    size_t equal = text.find('=');
    if (equal == std::string::npos || text.substr(0, equal) != "seccomp") return text;
    std::string profile = text.substr(equal + 1);
    if (profile == "unconfined" || profile == "builtin") return text;
    boost::system::error_code error;
    json::value parsed = json::parse(read_small_file(profile), error);
    if (error) fail("compacting json for seccomp profile (" + profile + ") failed: " + error.message());
    return "seccomp=" + json::serialize(parsed);
}

std::vector<PortSpec> parse_publish(const std::string &text) {
    PortSpec spec;
    std::string rest = text;
    spec.protocol = "tcp";
    if (size_t slash = rest.find('/'); slash != std::string::npos) {
        spec.protocol = rest.substr(slash + 1);
        rest.resize(slash);
        for (char &c : spec.protocol)
            c = static_cast<char>(tolower(static_cast<unsigned char>(c)));
        if (spec.protocol != "tcp" && spec.protocol != "udp" && spec.protocol != "sctp")
            fail("invalid proto: " + spec.protocol);
    }
    if (rest.starts_with("[")) { // [::1]:80:80
        size_t close = rest.find("]:");
        if (close == std::string::npos) fail("invalid publish specification: " + text);
        spec.host_ip = rest.substr(1, close - 1);
        rest = rest.substr(close + 2);
        if (rest.find(':') == std::string::npos) rest = ":" + rest; // no: [ip]:container
    }
    auto parts = split(rest, ':');
    std::string container = parts.back(), host;
    if (parts.size() > 3 || (parts.size() == 3 && !spec.host_ip.empty()))
        fail("invalid publish specification: " + text);
    if (parts.size() == 3) spec.host_ip = parts[0];
    if (parts.size() >= 2) host = parts[parts.size() - 2];
    if (container.empty()) fail("no port specified: " + text + "<empty>");
    auto [first, last] = parse_port_range(container, text);
    if (first == 0) fail("invalid container port: " + container);
    std::vector<PortSpec> result;
    int host_first = 0, host_last = 0;
    if (!host.empty()) {
        std::tie(host_first, host_last) = parse_port_range(host, text);
        // A range of the host for one container port lets the daemon choose out of it.
        if (first != last && host_last - host_first != last - first)
            fail("invalid ranges specified for container and host Ports: " + container + " and " + host);
    }
    for (int port = first; port <= last; ++port) {
        PortSpec one = spec;
        one.container_port = std::to_string(port);
        if (!host.empty()) one.host_port = first == last ? host : std::to_string(host_first + port - first);
        result.push_back(std::move(one));
    }
    return result;
}

std::vector<std::string> read_key_values(const std::string &path, bool from_environment) {
    std::vector<std::string> result;
    std::string content = read_small_file(path);
    if (content.starts_with("\xef\xbb\xbf")) content.erase(0, 3);
    for (std::string line : split(content, '\n')) {
        if (!line.empty() && line.back() == '\r') line.pop_back();
        line.erase(0, std::min(line.find_first_not_of(" \t"), line.size()));
        if (line.empty() || line[0] == '#') continue;
        size_t equal = line.find('=');
        std::string name = line.substr(0, equal);
        if (name.empty()) fail(path + ": no variable name on line '" + line + "'");
        if (name.find_first_of(" \t") != std::string::npos)
            fail(path + ": variable '" + name + "' contains whitespaces");
        if (equal != std::string::npos)
            result.push_back(line);
        else if (!from_environment)
            result.push_back(line);
        else if (const char *value = getenv(name.c_str()))
            result.push_back(name + "=" + value);
    }
    return result;
}

json::object parse_mount(const std::string &text) {
    json::object mount{{"Type", "volume"}}, bind, volume, tmpfs;
    for (const std::string &field : split(text, ',')) {
        size_t equal = field.find('=');
        std::string key = field.substr(0, equal);
        bool has_value = equal != std::string::npos;
        std::string value = has_value ? field.substr(equal + 1) : "";
        bool truth = !has_value || value == "true" || value == "1";
        if (!truth && (key == "readonly" || key == "ro") && value != "false" && value != "0")
            fail("invalid value for " + key + ": " + value);
        if (key == "type")
            mount["Type"] = value;
        else if (key == "source" || key == "src") {
            if (value.starts_with(".")) {
                char resolved[PATH_MAX];
                if (realpath(value.c_str(), resolved)) value = resolved;
            }
            mount["Source"] = value;
        } else if (key == "target" || key == "dst" || key == "destination")
            mount["Target"] = value;
        else if (key == "readonly" || key == "ro")
            mount["ReadOnly"] = truth;
        else if (key == "consistency")
            mount["Consistency"] = value;
        else if (key == "bind-propagation")
            bind["Propagation"] = value;
        else if (key == "bind-nonrecursive")
            bind["NonRecursive"] = truth;
        else if (key == "bind-create-src")
            bind["CreateMountpoint"] = truth;
        else if (key == "volume-nocopy")
            volume["NoCopy"] = truth;
        else if (key == "volume-subpath")
            volume["Subpath"] = value;
        else if (key == "volume-driver")
            volume["DriverConfig"] = json::object{{"Name", value}};
        else if (key == "volume-label") {
            json::object labels = volume.contains("Labels") ? volume["Labels"].as_object() : json::object();
            size_t inner = value.find('=');
            labels[value.substr(0, inner)] = inner == std::string::npos ? "" : value.substr(inner + 1);
            volume["Labels"] = std::move(labels);
        } else if (key == "tmpfs-size")
            tmpfs["SizeBytes"] = parse_bytes(value);
        else if (key == "tmpfs-mode") {
            int64_t mode = 0;
            auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), mode, 8);
            if (error != std::errc() || end != value.data() + value.size())
                fail("invalid value for tmpfs-mode: " + value);
            tmpfs["Mode"] = mode;
        } else if (has_value)
            fail("unexpected key '" + key + "' in '" + field + "'");
        else
            fail("invalid field '" + field + "' must be a key=value pair");
    }
    if (!mount.contains("Target")) fail("target is required");
    if (!bind.empty()) mount["BindOptions"] = std::move(bind);
    if (!volume.empty()) mount["VolumeOptions"] = std::move(volume);
    if (!tmpfs.empty()) mount["TmpfsOptions"] = std::move(tmpfs);
    return mount;
}

} // namespace gantry::cli
