//! A registry driver that refuses everything, in Rust: for sites where images enter by `gantry load` and
//! `gantry import` alone. Whoever pulls is told why, in the administrator's words.
//!
//! Nothing here may unwind into the engine: `guarded` turns a panic into "internal", and no function outside
//! of it can panic.

mod abi;

use abi::*;
use std::ffi::{CStr, CString};
use std::mem::size_of;
use std::os::raw::c_char;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr::null;

struct Refusal {
    hint: CString,
}

macro_rules! c {
    ($text:literal) => {
        concat!($text, "\0").as_ptr() as *const c_char
    };
}

fn report(call: *const Call, status: Status, message: &CStr, hint: *const c_char) -> Status {
    unsafe {
        let sink = &*(*call).error;
        (sink.set)(sink.ctx, status, 0, message.as_ptr(), hint);
    }
    status
}

fn guarded(call: *const Call, work: impl FnOnce() -> Status) -> Status {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let message = unsafe { CStr::from_ptr(c!("run driver: it panicked")) };
        report(call, INTERNAL, message, null())
    })
}

fn refuse(driver: Driver, call: *const Call, doing: &str, what: *const Reference) -> Status {
    guarded(call, || unsafe {
        let refusal = &*(driver as *const Refusal);
        let object = if what.is_null() {
            "registry".to_string()
        } else {
            CStr::from_ptr((*what).repository).to_string_lossy().chars().take(200).collect()
        };
        match CString::new(format!("{} {}: this site takes no images from registries", doing, object)) {
            Ok(message) => report(call, PERMISSION_DENIED, &message, refusal.hint.as_ptr()),
            Err(_) => INTERNAL,
        }
    })
}

extern "C" fn handles(_: Driver, _: *const Call, _: *const Reference, yes: *mut i32) -> Status {
    unsafe { *yes = 1 };
    OK
}
extern "C" fn resolve(
    driver: Driver, call: *const Call, what: *const Reference, _: *const Opaque, _: *const Opaque, _: *const Opaque,
) -> Status {
    refuse(driver, call, "resolve", what)
}
extern "C" fn fetch(driver: Driver, call: *const Call, fetch: *const Fetch, _: *const Opaque) -> Status {
    refuse(driver, call, "fetch from", unsafe { (*fetch).from })
}
extern "C" fn login(driver: Driver, call: *const Call, _: *const Opaque, _: *const Opaque) -> Status {
    refuse(driver, call, "log in to", null())
}
extern "C" fn explain(
    _: Driver, _: *const Call, _: *const Reference, sink: *const EndpointLineSink,
) -> Status {
    let line = EndpointLine {
        struct_size: size_of::<EndpointLine>() as u32,
        can_pull: 0,
        can_resolve: 0,
        can_push: 0,
        url: c!("none"),
        role: c!("origin"),
        state: c!("blocked"),
        reason: c!("registry.driver = \"refuse\""),
    };
    unsafe { ((*sink).add)((*sink).ctx, &line) }
}

extern "C" fn init(_: *const Opaque, _: *const Call) -> Status {
    OK
}
extern "C" fn deinit() {}

extern "C" fn create(call: *const Call, _: *const Opaque, config: *const Value, out: *mut Driver) -> Status {
    guarded(call, || unsafe {
        let config = &*config;
        let mut hint = CString::default();
        for i in 0..config.count as usize {
            if CStr::from_ptr(*config.keys.add(i)).to_bytes() == b"hint" {
                hint = CStr::from_ptr((*config.items.add(i)).string).to_owned();
            }
        }
        *out = Box::into_raw(Box::new(Refusal { hint })) as Driver;
        OK
    })
}
extern "C" fn destroy(driver: Driver) {
    drop(unsafe { Box::from_raw(driver as *mut Refusal) });
}

static TABLE: RegistryTable = RegistryTable {
    struct_size: size_of::<RegistryTable>() as u32,
    reserved: 0,
    handles,
    resolve,
    fetch,
    push: None,
    tags: None,
    search: None,
    explain,
    login,
};

static OPTIONS: [GantryOption; 1] = [GantryOption {
    struct_size: size_of::<GantryOption>() as u32,
    kind: 4, // GANTRY_TYPE_STRING
    name: c!("hint"),
    default_toml: c!("\"bring it as a file: gantry load\""),
    doc: c!("what a user is told to do instead"),
    choices: null(),
    min: 0,
    max: 0,
    children: null(),
    child_count: 0,
    flags: 0,
    shorthand: null(),
}];

const KIND_REGISTRY: u32 = 3;

#[used]
#[link_section = ".note.gantry.abi"]
static NOTE: Note = Note {
    name_size: 7,
    desc_size: 16,
    kind: 1,
    name: *b"gantry\0\0",
    abi_major: 1,
    abi_minor: 0,
    plugin_kind: KIND_REGISTRY,
    entry_size: size_of::<Entry>() as u32,
};

#[no_mangle]
#[allow(non_upper_case_globals)]
pub static gantry_plugin_entry: Entry = Entry {
    magic: *b"GANTRY\x01\n",
    abi_major: 1,
    abi_minor: 0,
    struct_size: size_of::<Entry>() as u32,
    kind: KIND_REGISTRY,
    name: c!("refuse"),
    version: c!("1.0"),
    description: c!("refuses all pulls, for sites that load their images from files"),
    homepage: c!(""),
    options: OPTIONS.as_ptr(),
    option_count: 1,
    ability_count: 0,
    abilities: null(),
    table: &TABLE,
    init,
    deinit,
    create,
    destroy,
};
