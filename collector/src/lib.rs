//! The collector's place in the house: the device, the distributor and the HTTP sink that ship
//! sealed minute files. Nothing is built here yet.
