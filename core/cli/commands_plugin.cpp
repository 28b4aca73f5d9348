// `plugin new`: a project for a driver, from the templates that the SDK installs. They are files, so that
// they can be read, built by CI as they are, and newer or older than this program.
#include "core/cli/command.h"

#include <gantry/error.hpp>

#include <climits>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sys/stat.h>
#include <unistd.h>

namespace gantry::cli {

namespace {

using Words = std::map<std::string, std::string>;

/// Beside the program: the installed tree, or the source tree that it was built from.
std::string templates_directory() {
    if (const char *given = getenv("GANTRY_TEMPLATES")) return given;
    char self[PATH_MAX];
    const ssize_t size = ::readlink("/proc/self/exe", self, sizeof self - 1);
    std::string bin(self, size > 0 ? static_cast<size_t>(size) : 0);
    bin.resize(bin.rfind('/') == std::string::npos ? 0 : bin.rfind('/'));
    for (const char *place : {"/../share/gantry/templates", "/../sdk-sources/templates"})
        if (std::filesystem::exists(bin + place + "/common")) return bin + place;
    throw Error(ErrorClass::kNotFound, "find the templates of plugins: the SDK is not installed",
                "install gantry-sdk, or set GANTRY_TEMPLATES to its share/gantry/templates");
}

/// Replaces @WORD@; text between two @ that is no known word stays.
std::string fill_in(const std::string &text, const Words &words) {
    std::string out;
    for (size_t at = 0; at < text.size();) {
        const size_t open = text.find('@', at), end = open == text.npos ? open : text.find('@', open + 1);
        if (end == text.npos) return out + text.substr(at);
        const auto it = words.find(text.substr(open + 1, end - open - 1));
        out += text.substr(at, (it == words.end() ? end : open) - at);
        if (it != words.end()) out += it->second;
        at = it == words.end() ? end : end + 1;
    }
    return out;
}

void check_name(const std::string &name) {
    const bool fine = !name.empty() && name.size() <= 32 && name[0] >= 'a' && name[0] <= 'z' &&
                      name.back() != '-' &&
                      name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == name.npos &&
                      name.find("--") == name.npos;
    if (!fine)
        throw Error(ErrorClass::kInvalidArgument, "make plugin \"" + name.substr(0, 64) + "\": not a name",
                    "a lower-case letter, then letters, digits and single '-', at most 32");
    for (const char *taken : {"auto", "none", "host"})
        if (name == taken)
            throw Error(ErrorClass::kInvalidArgument,
                        "make plugin \"" + name + "\": the engine gives that word a meaning of its own");
}

std::string class_of(const std::string &name) { // "my-store" -> "MyStoreDriver"
    std::string out;
    bool upper = true;
    for (const char c : name) {
        if (c != '-') out += upper && c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
        upper = c == '-';
    }
    return out + "Driver";
}

/// template.conf: WORD=text, one a line.
void read_words(const std::string &text, Words &words) {
    for (size_t at = 0; at < text.size();) {
        const size_t end = std::min(text.find('\n', at), text.size());
        const std::string line = text.substr(at, end - at);
        if (const size_t equals = line.find('='); equals != line.npos)
            words[line.substr(0, equals)] = line.substr(equals + 1);
        at = end + 1;
    }
}

int plugin_new(Invocation &invocation) {
    const std::string &kind = invocation.args[0], &name = invocation.args[1];
    if (kind != "storage" && kind != "network" && kind != "registry")
        throw Error(ErrorClass::kInvalidArgument, "make plugin: \"" + kind.substr(0, 64) + "\" is no kind",
                    "storage, network or registry");
    check_name(name);
    const std::string templates = templates_directory();
    // Packages of network drivers are called gantry-plugin-net-..., as the bundled one.
    const std::string unit = (kind == "network" ? "net" : kind) + "-" + name;
    std::string dir = invocation.flags.get("dir");
    if (dir.empty()) dir = "gantry-plugin-" + unit;
    Words words{{"NAME", name}, {"KIND", kind}, {"UNIT", unit}, {"CLASS", class_of(name)}};
    std::map<std::string, std::string> files;
    for (const std::string &part : {templates + "/common", templates + "/" + kind})
        for (const auto &entry : std::filesystem::directory_iterator(part)) {
            const std::string file = entry.path().filename();
            std::ifstream in(entry.path());
            const std::string text((std::istreambuf_iterator<char>(in)), {});
            if (!in) throw Error::from_errno(errno, "read template " + entry.path().string());
            if (file == "template.conf")
                read_words(text, words);
            else
                files[file == "gitignore" ? ".gitignore" : file] = text;
        }
    // One mkdir decides: whatever is there already is not touched.
    if (::mkdir(dir.c_str(), 0777) != 0) {
        if (errno == EEXIST)
            throw Error(ErrorClass::kAlreadyExists, "make plugin in " + dir + ": it is there already",
                        "choose another place with --dir");
        throw Error::from_errno(errno, "make plugin in " + dir);
    }
    for (const auto &[file, text] : files) {
        std::ofstream out(dir + "/" + file);
        out << fill_in(text, words);
        out.close();
        if (!out) throw Error::from_errno(errno, "write " + dir + "/" + file);
    }
    print_line(dir + ": a " + kind + " driver named " + name);
    print_line("next: cd " + dir +
               " && cmake -S . -B build && cmake --build build && ctest --test-dir build");
    return 0;
}

using enum FlagType;
constexpr Flag kNewFlags[] = {{"dir", 0, kString, "Directory to make (default gantry-plugin-KIND-NAME)"}};

} // namespace

std::span<const Command> plugin_commands() {
    static const Command kCommands[] = {{"plugin new", "", "[OPTIONS] storage|network|registry NAME",
                                         "Write the project of a new plugin: driver, test, package",
                                         kNewFlags, 2, 2, plugin_new}};
    return kCommands;
}

} // namespace gantry::cli
