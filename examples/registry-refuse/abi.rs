//! What this plugin uses of <gantry/abi.h> and <gantry/registry.h>, by hand. The ABI is C and append-only, so
//! these declarations stay true; structs that are only passed through are opaque.
#![allow(dead_code)]

use std::os::raw::{c_char, c_void};

pub type Status = i32;
pub const OK: Status = 0;
pub const PERMISSION_DENIED: Status = 7;
pub const NO_SPACE: Status = 8;
pub const INTERNAL: Status = 12;

pub enum Opaque {}

#[repr(C)]
pub struct ErrorSink {
    pub struct_size: u32,
    reserved: u32,
    pub ctx: *mut c_void,
    pub set: extern "C" fn(*mut c_void, Status, i32, *const c_char, *const c_char),
}

/// The head of gantry_call; what follows is not used here.
#[repr(C)]
pub struct Call {
    pub struct_size: u32,
    pub cancel_fd: i32,
    pub deadline_ns: i64,
    pub error: *const ErrorSink,
}

#[repr(C)]
pub struct Value {
    pub kind: u32,
    pub count: u32,
    pub string: *const c_char, // of the union: 8 bytes
    pub keys: *const *const c_char,
    pub items: *const Value,
}

#[repr(C)]
pub struct GantryOption {
    pub struct_size: u32,
    pub kind: u32,
    pub name: *const c_char,
    pub default_toml: *const c_char,
    pub doc: *const c_char,
    pub choices: *const *const c_char,
    pub min: i64,
    pub max: i64,
    pub children: *const GantryOption,
    pub child_count: u32,
    pub flags: u32,
    pub shorthand: *const c_char,
}

#[repr(C)]
pub struct Reference {
    pub struct_size: u32,
    reserved: u32,
    pub registry: *const c_char,
    pub repository: *const c_char,
    pub tag: *const c_char,
    pub digest: *const c_char,
}

#[repr(C)]
pub struct Fetch {
    pub struct_size: u32,
    pub avoid_count: u32,
    pub from: *const Reference,
}

#[repr(C)]
pub struct EndpointLine {
    pub struct_size: u32,
    pub can_pull: i32,
    pub can_resolve: i32,
    pub can_push: i32,
    pub url: *const c_char,
    pub role: *const c_char,
    pub state: *const c_char,
    pub reason: *const c_char,
}

#[repr(C)]
pub struct EndpointLineSink {
    pub struct_size: u32,
    reserved: u32,
    pub ctx: *mut c_void,
    pub add: extern "C" fn(*mut c_void, *const EndpointLine) -> Status,
}

pub type Driver = *mut c_void;

#[repr(C)]
pub struct RegistryTable {
    pub struct_size: u32,
    pub reserved: u32,
    pub handles: extern "C" fn(Driver, *const Call, *const Reference, *mut i32) -> Status,
    pub resolve: extern "C" fn(
        Driver, *const Call, *const Reference, *const Opaque, *const Opaque, *const Opaque) -> Status,
    pub fetch: extern "C" fn(Driver, *const Call, *const Fetch, *const Opaque) -> Status,
    pub push: Option<extern "C" fn()>,
    pub tags: Option<extern "C" fn()>,
    pub search: Option<extern "C" fn()>,
    pub explain: extern "C" fn(Driver, *const Call, *const Reference, *const EndpointLineSink) -> Status,
    pub login: extern "C" fn(Driver, *const Call, *const Opaque, *const Opaque) -> Status,
}

#[repr(C)]
pub struct Entry {
    pub magic: [u8; 8],
    pub abi_major: u32,
    pub abi_minor: u32,
    pub struct_size: u32,
    pub kind: u32,
    pub name: *const c_char,
    pub version: *const c_char,
    pub description: *const c_char,
    pub homepage: *const c_char,
    pub options: *const GantryOption,
    pub option_count: u32,
    pub ability_count: u32,
    pub abilities: *const Opaque,
    pub table: *const RegistryTable,
    pub init: extern "C" fn(*const Opaque, *const Call) -> Status,
    pub deinit: extern "C" fn(),
    pub create: extern "C" fn(*const Call, *const Opaque, *const Value, *mut Driver) -> Status,
    pub destroy: extern "C" fn(Driver),
}
// All of it is static data that nobody changes.
unsafe impl Sync for Entry {}
unsafe impl Sync for GantryOption {}

#[repr(C)]
pub struct Note {
    pub name_size: u32,
    pub desc_size: u32,
    pub kind: u32,
    pub name: [u8; 8],
    pub abi_major: u32,
    pub abi_minor: u32,
    pub plugin_kind: u32,
    pub entry_size: u32,
}
