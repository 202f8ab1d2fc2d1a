//! Layers upon layers: snapshots, and the order in which they are opened.
