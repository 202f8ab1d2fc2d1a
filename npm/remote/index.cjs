// There is nothing to import here: ublk-ts finds the native part that this package depends on, and loads it in place of its own.
module.exports = { what: 'the native part of ublk-ts that speaks with object stores: import ublk-ts' }
