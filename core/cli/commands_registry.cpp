// Commands that speak to registries as a user: login, logout, push, search.
#include "core/cli/command.h"
#include "core/cli/format.h"
#include "core/cli/registry_auth.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>

#include <csignal>
#include <termios.h>
#include <unistd.h>

namespace gantry::cli {

namespace json = boost::json;

namespace {

using enum FlagType;

constexpr size_t kMaxSecret = 64 << 10;

void say(const std::string &text) { write_all(2, text, "standard error"); }

/// One line of standard input without its end. Throws ExitWith at the end of file.
std::string read_line() {
    std::string line;
    char c = 0;
    for (;;) {
        const ssize_t n = ::read(0, &c, 1);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0 && line.empty()) throw ExitWith(1, "Error: standard input has ended");
        if (n <= 0 || c == '\n' || line.size() > kMaxSecret) break;
        line += c;
    }
    if (line.ends_with('\r')) line.pop_back();
    return line;
}

termios g_terminal; // as it was, for a Ctrl-C in the middle of a password
void restore_terminal(int) {
    tcsetattr(0, TCSANOW, &g_terminal);
    (void)!::write(2, "\n", 1);
    _exit(130);
}

/// Asks once nothing that is typed is shown any more.
std::string read_password() {
    tcgetattr(0, &g_terminal);
    struct sigaction action {
    }, before{};
    action.sa_handler = restore_terminal;
    sigaction(SIGINT, &action, &before);
    termios silent = g_terminal;
    silent.c_lflag &= ~static_cast<tcflag_t>(ECHO);
    tcsetattr(0, TCSANOW, &silent);
    say("Password: ");
    struct Restore {
        struct sigaction &before;
        ~Restore() {
            tcsetattr(0, TCSANOW, &g_terminal);
            sigaction(SIGINT, &before, nullptr);
        }
    } restore{before};
    std::string password = read_line();
    say("\n");
    return password;
}

void authenticate(Client &client, RegistryLogin login, const std::string &shown) {
    const json::value answer = client.post("/auth", json::object{{"username", login.username},
                                                                 {"password", login.password},
                                                                 {"identitytoken", login.identity_token},
                                                                 {"serveraddress", login.server}});
    if (std::string token = text_at(answer, "IdentityToken"); !token.empty()) {
        login.identity_token = std::move(token);
        login.password.clear();
    }
    const std::string file = AuthConfig().store(login);
    if (!file.empty() && login.identity_token.empty())
        say("WARNING! Your password will be stored unencrypted in " + file +
            ".\nConfigure a credential helper to remove this warning. See\n"
            "https://docs.docker.com/engine/reference/commandline/login/#credentials-store\n\n");
    print_line(shown.empty() ? "Login Succeeded" : shown);
}

int login_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    RegistryLogin login;
    login.server = login_server(invocation.args.empty() ? "" : invocation.args[0]);
    login.username = flags.get("username");
    login.password = flags.get("password");
    if (flags.has("password")) {
        say("WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n");
        if (flags.is_set("password-stdin"))
            throw ExitWith(1, "--password and --password-stdin are mutually exclusive");
    }
    if (flags.is_set("password-stdin")) {
        if (login.username.empty()) throw ExitWith(1, "Must provide --username with --password-stdin");
        login.password = read_all(0, kMaxSecret, "standard input");
        while (login.password.ends_with('\n') || login.password.ends_with('\r'))
            login.password.pop_back();
    }
    const bool asked = !login.username.empty() || !login.password.empty();
    if (!asked) {
        const RegistryLogin stored = AuthConfig().find(login.server);
        if (!stored.empty()) {
            say("Authenticating with existing credentials...\n");
            try {
                authenticate(invocation.client, stored, {});
                return 0;
            } catch (const ApiError &error) {
                say("Login did not succeed, error: " + printable(error.what()) + "\n");
                login.username = stored.username;
            }
        }
    }
    if (login.password.empty()) {
        if (!isatty(0)) throw ExitWith(1, "Error: Cannot perform an interactive login from a non TTY device");
        if (flags.get("username").empty()) {
            say("Username" + (login.username.empty() ? "" : " (" + login.username + ")") + ": ");
            if (std::string given = read_line(); !given.empty()) login.username = given;
            if (login.username.empty()) throw ExitWith(1, "Error: Username is required");
        }
        login.password = read_password();
        if (login.password.empty()) throw ExitWith(1, "Error: Password is required");
    }
    if (login.username.empty()) throw ExitWith(1, "Error: Username is required");
    authenticate(invocation.client, login, {});
    return 0;
}

int logout_command(Invocation &invocation) {
    const std::string server = login_server(invocation.args.empty() ? "" : invocation.args[0]);
    AuthConfig config;
    if (config.erase(server))
        print_line("Removing login credentials for " + server);
    else
        print_line("Not logged in to " + server);
    return 0;
}

int push_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    const std::string &reference = invocation.args[0];
    const bool all = flags.is_set("all-tags"), quiet = flags.is_set("quiet");
    auto [name, tag] = split_reference(reference);
    if (reference.find('@') != std::string::npos) throw ExitWith(1, "cannot push a digest reference");
    if (all && !tag.empty()) throw ExitWith(1, "tag can't be used with --all-tags/-a");
    if (!all && tag.empty()) {
        tag = "latest";
        if (!quiet) print_line("Using default tag: latest");
    }
    std::string path = "/images/" + url_encode(name);
    for (size_t found; (found = path.find("%2F")) != std::string::npos;)
        path.replace(found, 3, "/");
    path += "/push" + (all ? "" : "?tag=" + url_encode(tag));
    follow_progress(invocation.client, path, quiet, 1,
                    {{"X-Registry-Auth", registry_auth_header(registry_of(name))}});
    if (!quiet) return 0;
    std::string full = name + (all ? "" : ":" + tag);
    if (registry_of(name) == login_server(""))
        full = (name.find('/') == std::string::npos ? "docker.io/library/"
                : name.starts_with("docker.io/")    ? ""
                                                    : "docker.io/") +
               full;
    print_line(full);
    return 0;
}

int list_tags(Invocation &invocation, const std::string &name, int64_t limit) {
    const json::value found =
        invocation.client.call({.target = "/gantry/v1/images/tags?name=" + url_encode(name),
                                .headers = {{"X-Registry-Auth", registry_auth_header(registry_of(name))}}});
    std::vector<json::object> rows;
    for (const json::value &tag : array_of(found.at("Tags"))) {
        if (limit > 0 && rows.size() == size_t(limit)) break;
        rows.push_back({{"Name", name}, {"Tag", tag}});
    }
    print_list(rows, {"{{.Name}}\t{{.Tag}}", {{"Name", "NAME"}, {"Tag", "TAG"}}},
               invocation.flags.get("format"));
    return 0;
}

int search_command(Invocation &invocation) {
    const ParsedFlags &flags = invocation.flags;
    const std::string &term = invocation.args[0];
    const int64_t limit = flags.integer("limit", 0);
    if (flags.is_set("list-tags")) {
        if (flags.is_set("filter")) throw FlagError{"--filter does not go with --list-tags"};
        return list_tags(invocation, term, limit);
    }
    std::string path = "/images/search?term=" + url_encode(term);
    if (limit) path += "&limit=" + std::to_string(limit);
    if (const std::string filter = filter_query(flags); !filter.empty()) path += "&" + filter;
    const json::value list = invocation.client.call(
        {.target = path, .headers = {{"X-Registry-Auth", registry_auth_header(registry_of(term))}}});
    std::vector<json::object> rows;
    for (const json::value &entry : array_of(list)) {
        std::string description = text_at(entry, "description");
        for (char &c : description)
            if (c == '\n' || c == '\r') c = ' ';
        rows.push_back({{"Name", text_at(entry, "name")},
                        {"Description", flags.is_set("no-trunc") ? description : ellipsis(description, 45)},
                        {"StarCount", std::to_string(number_at(entry, "star_count"))},
                        {"IsOfficial", bool_at(entry, "is_official") ? "[OK]" : ""},
                        {"IsAutomated", bool_at(entry, "is_automated") ? "[OK]" : ""}});
    }
    static const json::object kHeaders{{"Name", "NAME"},
                                       {"Description", "DESCRIPTION"},
                                       {"StarCount", "STARS"},
                                       {"IsOfficial", "OFFICIAL"},
                                       {"IsAutomated", "AUTOMATED"}};
    print_list(rows, {"{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}", kHeaders},
               flags.get("format"));
    return 0;
}

constexpr Flag kLoginFlags[] = {{"password", 'p', kString, "Password"},
                                {"password-stdin", 0, kBool, "Take the password from stdin"},
                                {"username", 'u', kString, "Username"}};
constexpr Flag kPushFlags[] = {{"all-tags", 'a', kBool, "Push all tags of an image to the repository"},
                               {"disable-content-trust", 0, kBool, "Skip image signing", nullptr, true},
                               {"quiet", 'q', kBool, "Suppress verbose output"}};
constexpr Flag kSearchFlags[] = {
    {"filter", 'f', kList, "Filter output based on conditions provided", "filter"},
    {"format", 0, kString, "Format output using a Go template, 'table TEMPLATE' or 'json'"},
    {"limit", 0, kInt, "Max number of search results"},
    {"list-tags", 0, kBool, "List the tags of the repository TERM in its registry"},
    {"no-trunc", 0, kBool, "Don't truncate output"}};

} // namespace

std::span<const Command> registry_commands() {
    static const Command kCommands[] = {
        {"login", "", "[OPTIONS] [SERVER]", "Authenticate to a registry", kLoginFlags, 0, 1, login_command},
        {"logout", "", "[SERVER]", "Log out from a registry", {}, 0, 1, logout_command},
        {"push", "image push", "[OPTIONS] NAME[:TAG]", "Upload an image to a registry", kPushFlags, 1, 1,
         push_command},
        {"search", "", "[OPTIONS] TERM", "Search Docker Hub, or a registry by its name: HOST/TERM",
         kSearchFlags, 1, 1, search_command},
    };
    return kCommands;
}

} // namespace gantry::cli
